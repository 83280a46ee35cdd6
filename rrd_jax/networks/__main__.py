"""Prints the networks as a table: python -m rrd_jax.networks."""

from rrd_jax import cli, networks, report


def table() -> str:
    """Every network with 100 (CIFAR) or 1 000 (ImageNet) classes and RGB images."""
    header = ("name", "parameters", "MACs", "taps: channels@size", "embedding", "input size")
    rows = []
    for name in networks.MODELS:
        size = networks.image_size(name)
        network = networks.create(name, 100 if name in networks.CIFAR else 1000)
        outputs, parameters, macs, *_ = networks.summarize(network, (size, size, 3))
        taps = " ".join(f"{tap.shape[-1]}@{tap.shape[1]}" for tap in outputs.maps)
        width = str(outputs.embedding.shape[-1])
        rows.append((name, f"{parameters:,}", f"{macs:,}", taps, width, f"{size}x{size}"))
    return report.table(header, rows)


def main() -> None:
    """Prints the table."""
    cli.guard(lambda: print(table()))


if __name__ == "__main__":
    main()
