//! Asks before something is done that is hard to undo.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::Exit;

/// Asks on a terminal, unless `yes`. Without a terminal nobody can answer: scripts go on.
///
/// # Errors
/// The answer is no. This is printed.
pub fn confirm(yes: bool, question: &str) -> Result<(), Exit> {
    if yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    eprintln!("nothing was changed");
    Err(Exit::Failed)
}
