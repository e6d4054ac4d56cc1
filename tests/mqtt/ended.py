"""The end of a test's own client of the broker."""

from __future__ import annotations

import paho.mqtt.client as paho


def end(client: paho.Client) -> None:
    """Says goodbye, ends its thread, and closes the sockets that paho wakes it by and leaves to chance."""
    client.disconnect()
    client.loop_stop()
    client._reset_sockets()
