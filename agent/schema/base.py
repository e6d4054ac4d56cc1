"""What every file schema shares: frozen, unknown keys are errors, numbers carry their origin."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""Lower-case identifier used in topics, file names and JSON."""

Provenance = Literal["measured", "fitted", "published", "datasheet", "assumed"]
"""Where a coefficient comes from, best first: a sensor on this board, a fit to published or own measurements,
somebody's published measurement, the vendor's data sheet, or a stated assumption."""


class FileModel(BaseModel):
    """Base of every schema that is read from a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quantity(FileModel):
    """A number with its origin. The unit is the suffix of the key that holds it."""

    value: float
    provenance: Provenance
    source: str = Field(min_length=1, description="URL, DOI, data sheet, command, or the reason for the assumption")
    rel_uncertainty: float | None = Field(default=None, ge=0, description="one standard deviation as a share of value")
