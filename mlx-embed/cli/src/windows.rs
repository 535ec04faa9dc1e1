//! An input's windows with their results, in order. The next are read, tokenised and embedded while one is written.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use crate::embedded::Embedded;
use crate::error::CliError;
use crate::found::Encoder;
use crate::input::{Input, OnError};

/// Windows that wait for their turn to be written, beside the one that is read: while the model runs one, others are
/// tokenised.
const UNDER_WAY: usize = 4;

/// A window that is being embedded.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Its texts.
    pub(crate) texts: usize,
    /// How much of the input is read at its end.
    pub(crate) read: u64,
    /// Records of the input up to its end.
    pub(crate) position: usize,
    /// Whether nothing follows.
    pub(crate) ended: bool,
    embedded: Receiver<Embedded>,
}

impl Pending {
    /// Waits for the results.
    pub(crate) fn wait(self) -> Result<Embedded, CliError> {
        self.embedded.recv().map_err(|_| no_thread())
    }
}

/// The windows of `input` of about `window_bytes` each.
///
/// Whoever stops asking for them leaves a thread behind that may wait for input: it ends with the process.
pub(crate) fn windows(
    model: Arc<Encoder>,
    mut input: Input,
    window_bytes: usize,
    on_error: OnError,
) -> Result<impl Iterator<Item = Pending>, CliError> {
    let (windows, in_order) = mpsc::sync_channel(UNDER_WAY);
    let read = move || while read_one(&model, &mut input, window_bytes, on_error, &windows) {};
    thread::Builder::new().name("input".into()).spawn(read).map_err(CliError::no_thread)?;
    Ok(in_order.into_iter())
}

/// Reads a window and has it embedded; whether another may follow.
fn read_one(
    model: &Arc<Encoder>,
    input: &mut Input,
    window_bytes: usize,
    on_error: OnError,
    windows: &SyncSender<Pending>,
) -> bool {
    let window = input.window(window_bytes, on_error);
    let (result, embedded) = mpsc::sync_channel(1);
    let (texts, ended) = (window.rows.len(), window.ended);
    let follows = !ended && window.error.is_none();
    let (read, position) = (input.read(), input.position());
    if windows.send(Pending { texts, read, position, ended, embedded }).is_err() {
        return false;
    }
    let (model, places) = (Arc::clone(model), input.places());
    let embed = move || {
        // Nobody to tell means that the job has ended.
        let _ = result.send(Embedded::new(&model, window, &places, on_error));
    };
    // Where no thread starts, the window has no result, and the job ends there.
    thread::Builder::new().name("window".into()).spawn(embed).is_ok() && follows
}

fn no_thread() -> CliError {
    CliError::no_thread(io::Error::other(
        "a thread that embeds a part of the input could not start, or ended early",
    ))
}
