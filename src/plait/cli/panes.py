"""Several sequences on a terminal at once. Knows rich."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from plait.api import Delta
from plait.cli.output import Printer, Shown


class PanePrinter(Printer):
    """Several sequences on a terminal: a pane each, all moving; at the end each whole, above the prompt."""

    def __enter__(self) -> Printer:
        self._console = Console(highlight=False)
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=12, transient=True, screen=False
        )
        self._live.start()
        return self

    def show(self, number: int, delta: Delta) -> None:
        """The pane redraws itself on its own clock."""

    def _render(self) -> Group:
        """Each pane shows the last lines of its text, so that all fit on the screen."""
        height = max(3, self._console.height // max(len(self.shown), 1))
        width = max(20, self._console.width - 4)
        panes = []
        for number, one in enumerate(self.shown[: max(1, self._console.height // 3)], 1):
            lines = self._body(one).wrap(self._console, width)[-(height - 2) :]
            panes.append(Panel(Text("\n").join(lines), title=_title(number, one), title_align="left", height=height))
        return Group(*panes)

    def _body(self, one: Shown) -> Text:
        return Text.assemble((one.prompt + self.gap, "dim"), "".join(one.text))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        for number, one in enumerate(self.shown, 1):
            self._console.print(Panel(self._body(one), title=_title(number, one), title_align="left"))


def _title(number: int, one: Shown) -> str:
    return escape(f"{number}" + (f" ({one.reason}, {len(one.tokens)} tokens)" if one.end else ""))
