//! A sandbox in the engine's memory.

use std::sync::{Arc, Mutex, MutexGuard};

use bulkhead_model::{Error, Result};
use tokio::sync::{oneshot, watch};

use crate::ports::{RemoteSandbox, Session, Store};
use crate::record::Record;

/// A record, and whether it still is one: what is removed must not come back by a late note.
struct Kept {
    record: Record,
    forgotten: bool,
}

pub(crate) struct Entry {
    pub id: String,
    record: Mutex<Kept>,
    /// One operation (start, stop, remove …) at a time.
    pub operation: tokio::sync::Mutex<()>,
    remote: Mutex<Option<Arc<dyn RemoteSandbox>>>,
    /// Clients that attached before the start.
    pub early_attachers: Mutex<Vec<(bool, oneshot::Sender<Session>)>>,
    /// Counts the changes of the record.
    changes: watch::Sender<u64>,
}

impl Entry {
    pub(crate) fn new(record: Record) -> Self {
        Self {
            id: record.id.clone(),
            record: Mutex::new(Kept {
                record,
                forgotten: false,
            }),
            operation: tokio::sync::Mutex::default(),
            remote: Mutex::default(),
            early_attachers: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// A copy of the record as it is now.
    pub(crate) fn record(&self) -> Record {
        lock(&self.record).record.clone()
    }

    /// Looks at the record without copying it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&lock(&self.record).record)
    }

    /// Changes the record in the store and in memory, and wakes who watches. For what is intended:
    /// if it cannot be kept, the record stays as it was.
    pub(crate) fn change(&self, store: &dyn Store, change: impl FnOnce(&mut Record)) -> Result<()> {
        {
            let mut kept = lock(&self.record);
            let mut record = kept.record.clone();
            change(&mut record);
            if !kept.forgotten {
                store.save_sandbox(&record)?;
            }
            kept.record = record;
        }
        self.wake();
        Ok(())
    }

    /// The same for what has happened: memory tells the truth even if the store cannot.
    pub(crate) fn note(&self, store: &dyn Store, change: impl FnOnce(&mut Record)) -> Result<()> {
        let saved = {
            let mut kept = lock(&self.record);
            change(&mut kept.record);
            if kept.forgotten {
                Ok(())
            } else {
                store.save_sandbox(&kept.record)
            }
        };
        self.wake();
        saved
    }

    /// Takes the record out of the store for good.
    pub(crate) fn forget(&self, store: &dyn Store) -> Result<()> {
        let mut kept = lock(&self.record);
        store.delete_sandbox(&self.id)?;
        kept.forgotten = true;
        Ok(())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Wakes who watches, for a change that is not in the record (its removal).
    pub(crate) fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn set_remote(&self, remote: Option<Arc<dyn RemoteSandbox>>) {
        *lock(&self.remote) = remote;
    }

    /// # Errors
    /// `Conflict` if it does not run.
    pub(crate) fn remote(&self) -> Result<Arc<dyn RemoteSandbox>> {
        lock(&self.remote).clone().ok_or_else(|| {
            let name = self.look(|record| record.config.name.clone());
            Error::conflict(format!("sandbox {name} is not running"))
        })
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a record was held leaves whole values behind: each change is one assignment.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
