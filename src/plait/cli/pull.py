"""`plait pull`: a model from the hub into the local cache, from where every command takes it."""

from __future__ import annotations

import click

from plait.cli.options import command
from plait.formats.hub import pull_model


def pull(repo: str, revision: str) -> None:
    """Fetch the model REPO (owner/name) from the Hugging Face hub into its local cache, and print where it lies.

    A GGUF file is named after a colon, by its name or its quantisation (owner/name:Q8_0); of several Q4_K_M is the
    default. Files that are there already are not fetched again, and a connection that breaks is taken up where it
    ended. HF_TOKEN, HF_HOME and HF_ENDPOINT are read as the hub's own tools do.
    """
    from plait.formats.hub_client import HuggingFaceHub  # takes a while

    print(pull_model(repo, HuggingFaceHub(revision=revision)))


COMMAND = command(
    "pull",
    [
        click.Argument(["repo"], metavar="REPO"),
        click.Option(
            ["revision", "--revision"], default="main", show_default=True, help="A branch, a tag or a commit."
        ),
    ],
    pull,
)
