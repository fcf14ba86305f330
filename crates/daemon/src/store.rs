//! Records in SQLite: one table per kind of record, the record itself as JSON.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use bulkhead_engine::{NetworkRecord, ProjectRecord, Record, Store, VolumeRecord};
use bulkhead_model::{Error, Result};
use rusqlite::{Connection, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Raised when a record's form changes in a way that an older daemon cannot read.
const SCHEMA_VERSION: i64 = 1;

/// A call that returned survives the end of the process (write-ahead log); what survives a power
/// failure is a consistent, possibly slightly older state.
pub(crate) struct SqliteStore {
    connection: Mutex<Connection>,
}

const TABLES: [&str; 4] = ["sandboxes", "networks", "volumes", "projects"];

impl SqliteStore {
    /// # Errors
    /// `Host` if the file cannot be opened; `Unsupported` if a newer version wrote it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |error: rusqlite::Error| {
            Error::host(format!("open the database {}", path.display())).with_source(error)
        };
        // The workloads' environments are in it, where people keep passwords. SQLite gives the
        // files beside it the same mode.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
            .map_err(|error| {
                Error::host(format!(
                    "open the database {}: is the file system full or read-only?",
                    path.display()
                ))
                .with_source(error)
            })?;
        let connection = Connection::open(path).map_err(failed)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(failed)?;
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(failed)?;
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        if version > SCHEMA_VERSION {
            return Err(Error::unsupported(format!(
                "{} was written by a newer version of Bulkhead: update Bulkhead, or give another --root",
                path.display()
            )));
        }
        for table in TABLES {
            let statement = format!(
                "CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT"
            );
            connection.execute(&statement, []).map_err(failed)?;
        }
        connection
            .pragma_update(None, "user_version", SCHEMA_VERSION)
            .map_err(failed)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn all<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<T>> {
        let failed = |error: rusqlite::Error| {
            Error::host(format!("read the {table} from the database")).with_source(error)
        };
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(&format!("SELECT key, record FROM {table} ORDER BY key"))
            .map_err(failed)?;
        let rows = statement
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .map_err(failed)?;
        let mut records = Vec::new();
        for row in rows {
            let (key, text) = row.map_err(failed)?;
            let record = serde_json::from_str(&text).map_err(|error| {
                Error::host(format!("read {key} of the {table} from the database"))
                    .with_source(error)
            })?;
            records.push(record);
        }
        Ok(records)
    }

    fn save(&self, table: &str, key: &str, record: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(record)
            .map_err(|error| Error::host(format!("encode {key}")).with_source(error))?;
        self.connection()
            .prepare_cached(&format!(
                "INSERT OR REPLACE INTO {table} (key, record) VALUES (?1, ?2)"
            ))
            .and_then(|mut statement| statement.execute(params![key, text]))
            .map_err(|error| {
                Error::host(format!("write {key} to the database: is the disk full?"))
                    .with_source(error)
            })?;
        Ok(())
    }

    fn delete(&self, table: &str, key: &str) -> Result<()> {
        self.connection()
            .prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))
            .and_then(|mut statement| statement.execute(params![key]))
            .map_err(|error| {
                Error::host(format!("delete {key} from the database")).with_source(error)
            })?;
        Ok(())
    }
}

impl Store for SqliteStore {
    fn sandboxes(&self) -> Result<Vec<Record>> {
        self.all("sandboxes")
    }

    fn save_sandbox(&self, record: &Record) -> Result<()> {
        self.save("sandboxes", &record.id, record)
    }

    fn delete_sandbox(&self, id: &str) -> Result<()> {
        self.delete("sandboxes", id)
    }

    fn networks(&self) -> Result<Vec<NetworkRecord>> {
        self.all("networks")
    }

    fn save_network(&self, record: &NetworkRecord) -> Result<()> {
        self.save("networks", record.id(), record)
    }

    fn delete_network(&self, id: &str) -> Result<()> {
        self.delete("networks", id)
    }

    fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        self.all("volumes")
    }

    fn save_volume(&self, record: &VolumeRecord) -> Result<()> {
        self.save("volumes", &record.name, record)
    }

    fn delete_volume(&self, name: &str) -> Result<()> {
        self.delete("volumes", name)
    }

    fn projects(&self) -> Result<Vec<ProjectRecord>> {
        self.all("projects")
    }

    fn save_project(&self, record: &ProjectRecord) -> Result<()> {
        self.save("projects", &record.name, record)
    }

    fn delete_project(&self, name: &str) -> Result<()> {
        self.delete("projects", name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_there_after_reopening() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("state.db");
        let project = ProjectRecord {
            name: "shop".into(),
            ..ProjectRecord::default()
        };
        SqliteStore::open(&path)
            .expect("open")
            .save_project(&project)
            .expect("save");
        let store = SqliteStore::open(&path).expect("reopen");
        assert_eq!(store.projects().expect("read")[0].name, "shop");
        store.delete_project("shop").expect("delete");
        assert!(store.projects().expect("read").is_empty());
    }

    #[test]
    fn a_newer_database_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("state.db");
        let connection = Connection::open(&path).expect("open");
        connection
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .expect("version");
        drop(connection);
        let error = SqliteStore::open(&path).err().expect("refused");
        assert_eq!(error.kind(), bulkhead_model::ErrorKind::Unsupported);
    }
}
