//! How much memory models take together.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Mutex, OwnedRwLockWriteGuard};

use crate::config::Load;
use crate::slot::{Loaded, Slot};

/// What a limit on the bytes of all models leaves.
#[derive(Debug)]
pub(crate) struct Room {
    limit: Option<u64>,
    /// Held by whoever counts, so that two don't count on the same bytes.
    turn: Mutex<()>,
}

impl Room {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self { limit, turn: Mutex::default() }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Sets `bytes` apart for `slot`, whose model is about to be loaded, and unloads others for it. Gives the place for the
    /// model, or the reason where that doesn't do.
    ///
    /// Who holds a place doesn't wait for a turn here, so whoever has the turn may wait for any place.
    pub(crate) async fn make(
        &self,
        slots: &[Arc<Slot>],
        slot: &Slot,
        bytes: u64,
    ) -> Result<OwnedRwLockWriteGuard<Option<Loaded>>, String> {
        let place = || Arc::clone(&slot.loaded).write_owned();
        let Some(limit) = self.limit else { return Ok(place().await) };
        let _turn = self.turn.lock().await;
        let others = || slots.iter().filter(|other| !std::ptr::eq(other.as_ref(), slot));
        loop {
            let taken: u64 = others().map(|other| other.bytes.load(Ordering::Relaxed)).sum();
            if taken.saturating_add(bytes) <= limit {
                let place = place().await;
                slot.bytes.store(bytes, Ordering::Relaxed);
                return Ok(place);
            }
            // One that is still being loaded, or in use, is waited for.
            let may_go = |other: &&Arc<Slot>| {
                other.config.load == Load::FirstUse && other.bytes.load(Ordering::Relaxed) > 0
            };
            let Some(oldest) = others().filter(may_go).max_by_key(|other| other.idle()) else {
                return Err(format!(
                    "its weights take {bytes} bytes, and other models {taken} of the {limit} that limits.model-bytes \
                     allows; raise it, or let others be loaded at their first use (load: first-use)"
                ));
            };
            oldest.unload("another model needs its memory").await;
        }
    }
}
