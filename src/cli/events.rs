//! What an agent or a viewer tells while it runs, one line each.

use std::fmt::Display;

use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;

use super::exit::Failure;
use super::out;

/// Prints events until their source ends: as JSON lines on standard output, or in words on
/// standard error. Fails only if standard output does.
pub(crate) async fn print<E: Serialize + Display>(
    mut events: UnboundedReceiver<E>,
    json: bool,
) -> Result<(), Failure> {
    while let Some(event) = events.recv().await {
        if json {
            out::json_line(&event)?;
        } else {
            out::talk(&event.to_string());
        }
    }
    Ok(())
}
