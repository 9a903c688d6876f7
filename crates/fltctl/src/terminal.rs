//! What the terminal can do: its width, and whether colours are welcome.
//!
//! Nothing is written here. Next room: `request.rs`, which puts this into settings.

use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Columns of the terminal at `stream`; `None` where there is none.
pub(crate) fn columns(stream: &(impl IsTerminal + AsFd)) -> Option<u16> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Whether to colour what goes to `stream`: a terminal that can, of somebody who has not said no (`NO_COLOR`).
pub(crate) fn wants_colour(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
    stream.is_terminal() && !set("NO_COLOR") && !dumb
}
