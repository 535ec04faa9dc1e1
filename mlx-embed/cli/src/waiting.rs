//! A word on what a program waits for: a pipe is opened once somebody holds its other end, and has its end when they say so.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Longer than a shell takes to start the program at the other end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says what is waited for, unless it is dropped before long.
#[derive(Debug)]
pub(crate) struct Waiting {
    _ends: Option<Sender<()>>,
}

impl Waiting {
    /// On a file, if it is a pipe: for what `until` says.
    pub(crate) fn on(path: &Path, until: &str) -> Self {
        if !fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Self { _ends: None };
        }
        let text = format!("note: {} is a pipe: waiting until {until}", path.display());
        let (ends, ended) = mpsc::channel::<()>();
        // Without a thread nothing is said.
        let teller = thread::Builder::new().spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // With stderr closed there is nobody to tell.
                let _ = writeln!(io::stderr(), "{text}");
            }
        });
        Self { _ends: teller.is_ok().then_some(ends) }
    }
}
