"""Writes Markdown tables and the numbers in them."""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def fine_ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else ms(value)


def megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f}"
