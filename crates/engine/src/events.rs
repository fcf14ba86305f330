use std::collections::BTreeMap;
use std::time::SystemTime;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    pub time: SystemTime,
    pub subject: Subject,
    pub action: Action,
    /// Id of a sandbox or network, name of a volume.
    pub id: String,
    /// Name, image, exit code and labels.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Sandbox,
    Network,
    Volume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Create,
    Start,
    /// The workload ended.
    Die,
    Kill,
    Stop,
    Restart,
    Pause,
    Resume,
    Rename,
    Update,
    OutOfMemory,
    /// A health check changed its mind; the attribute `health` says to what.
    Health,
    Remove,
}
