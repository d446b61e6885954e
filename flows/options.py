"""Options that several subcommands of `csp` have, with one help text each."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to the terminal too.")]
#: Seats of the engines.
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=1024,
        show_default=False,
        help="Worker processes; one per processor, or per GPU, when not given.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where engines compute that can use a GPU.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=0.0, help="Save and stop after so long.", show_default=False),
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write a log for TensorBoard too.")
]
NetworkDevice = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
