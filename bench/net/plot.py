"""The same as a picture: a panel per mode, a bar per peer, the range over the rounds as a line."""

from pathlib import Path

from bench.net.measure import IdleResult, Result


def plot(results: list[Result], path: Path) -> None:
    """Write a PNG (or what else the suffix of `path` names)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = max(len(result.by_peer) for result in results)
    figure, panels = pyplot.subplots(
        1, len(results), figsize=(3 + 3 * len(results), 1.2 + 0.35 * rows), sharey=True, squeeze=False
    )
    names = list(dict.fromkeys(name for result in results for name in result.by_peer))
    for panel, result in zip(panels[0], results, strict=True):
        _draw(panel, result, names)
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw(panel, result: Result, names: list[str]) -> None:  # type: ignore[no-untyped-def]
    medians = result.medians()
    values = [medians.get(name, 0.0) for name in names]
    colours = ["tab:blue" if name.startswith("gamenet") else "tab:gray" for name in names]
    panel.set_title(result.mode.name)
    if isinstance(result, IdleResult):
        panel.barh(names, values, color=colours)
        panel.set_xlabel("bytes per connection")
        return
    baseline = result.by_peer[result.baseline]
    ranges = [result.by_peer[name].ratios_to(baseline) if name in result.by_peer else [0.0] for name in names]
    low = [value - min(ratios) for value, ratios in zip(values, ranges, strict=True)]
    high = [max(ratios) - value for value, ratios in zip(values, ranges, strict=True)]
    panel.barh(names, values, xerr=[low, high], color=colours, ecolor="black", capsize=2)
    panel.axvline(1, color="black", linewidth=0.5)
    panel.set_xlabel(f"rate / {result.baseline}")
