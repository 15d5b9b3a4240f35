"""The alerts of this process as it sees them: what is stored, and over it what is on its way into the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tallyroll.analytics.alerts.lifecycle import Alert

Layer = dict[str, Alert | None]
"""Changed alerts by series; None where one is gone."""


class Book:
    """Alerts by series, in layers.

    A layer is opened for what is to be stored together; ``keep`` when it was stored, ``drop`` when it was not. Reads see
    all layers, the newest first. ``kept`` counts the layers that were stored: who has read the store meanwhile reads again.
    """

    def __init__(self) -> None:
        self.kept = 0
        self._stored: dict[str, Alert] = {}
        self._layers: list[Layer] = []

    def get(self, series: str) -> Alert | None:
        """The alert of a series, or None."""
        for layer in reversed(self._layers):
            if series in layer:
                return layer[series]
        return self._stored.get(series)

    def is_moving(self, series: str) -> bool:
        """Whether a change of the series is not stored yet."""
        return any(series in layer for layer in self._layers)

    def items(self) -> Iterator[tuple[str, Alert]]:
        """All alerts."""
        for series in {**self._stored, **{series: None for layer in self._layers for series in layer}}:
            alert = self.get(series)
            if alert is not None:
                yield series, alert

    def alerts(self) -> Iterator[Alert]:
        """All alerts, without their names."""
        return (alert for _, alert in self.items())

    def open(self) -> Layer:
        """A new layer on top."""
        layer: Layer = {}
        self._layers.append(layer)
        return layer

    def keep(self, layer: Layer) -> None:
        """What is in the layer is stored."""
        self.drop(layer)
        self.kept += 1
        for series, alert in layer.items():
            if alert is None:
                self._stored.pop(series, None)
            else:
                self._stored[series] = alert

    def drop(self, layer: Layer) -> None:
        """What is in the layer was not stored."""
        self._layers = [one for one in self._layers if one is not layer]

    def refresh(self, stored: Mapping[str, Alert]) -> None:
        """What the store has, all of it."""
        self._stored = dict(stored)
