//! The table of settings: name, description, range, default, whether a running engine takes it
//! over, and how it is read and written.
//!
//! Flags, environment variables, the file, the checks and the reload of a daemon follow from it.

use super::{Config, ConfigError, check_cores, check_deny, check_listen, default_snapshot};
use crate::limits::*;
use crate::region::Place;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name, as in the file; words are joined by `_`.
    pub name: &'static str,
    /// What stands for its value in a usage line.
    pub placeholder: &'static str,
    /// What it does, without its range and its default.
    pub help: &'static str,
    /// The default in words, where the machine or another setting decides. Empty:
    /// [`Config::default`] has it.
    default: &'static str,
    /// Whether a running engine takes it over.
    pub reloadable: bool,
    /// What kind of value it has.
    pub kind: Kind,
    /// What its range does not say.
    check: fn(&Config) -> Result<(), String>,
}

/// Kinds of values, and how a configuration is read (`get`) and written (`set`). What is written is
/// checked by [`Config::validate`].
#[derive(Debug)]
#[expect(missing_docs, reason = "every kind has the same three fields")]
pub enum Kind {
    /// A whole number.
    Number { range: RangeInclusive<u64>, get: fn(&Config) -> u64, set: fn(&mut Config, u64) },
    /// A length of time.
    Time {
        range: RangeInclusive<Duration>,
        get: fn(&Config) -> Duration,
        set: fn(&mut Config, Duration),
    },
    /// On or off.
    Switch { get: fn(&Config) -> bool, set: fn(&mut Config, bool) },
    /// Numbers of CPUs.
    Cpus { get: fn(&Config) -> Vec<usize>, set: fn(&mut Config, Vec<usize>) },
    /// A file or a directory.
    Path { get: fn(&Config) -> Option<PathBuf>, set: fn(&mut Config, PathBuf) },
    /// Addresses with ports.
    Addresses { get: fn(&Config) -> Vec<SocketAddr>, set: fn(&mut Config, Vec<SocketAddr>) },
    /// Texts.
    Texts { get: fn(&Config) -> Vec<String>, set: fn(&mut Config, Vec<String>) },
}

/// Every setting. `snapshot` stands after `state`, whose name is in its default.
pub static SETTINGS: [Setting; 13] = [
    Setting {
        name: "listen",
        placeholder: "ADDR:PORT",
        help: "Address to listen on, repeatable; the IPv6 wildcard listens on both families",
        default: "",
        reloadable: false,
        kind: Kind::Addresses {
            get: |config| config.listen.clone(),
            set: |config, addresses| config.listen = addresses,
        },
        check: |config| check_listen(&config.listen),
    },
    Setting {
        name: "state",
        placeholder: "DIR",
        help: "Directory on tmpfs for the memory files",
        default: "/dev/shm/heartline, for users /dev/shm/heartline-UID",
        reloadable: false,
        kind: Kind::Path {
            get: |config| match &config.state {
                Place::Directory(path) => Some(path.clone()),
                Place::Scratch => None,
            },
            set: |config, path| {
                config.snapshot = default_snapshot(&path);
                config.state = Place::Directory(path);
            },
        },
        check: |config| match &config.state {
            Place::Directory(path) if path.as_os_str().is_empty() => {
                Err("\"\" is not the name of a directory".into())
            }
            _ => Ok(()),
        },
    },
    Setting {
        name: "capacity",
        placeholder: "LEASES",
        help: "Leases to make room for",
        default: "",
        reloadable: false,
        kind: Kind::Number {
            range: CAPACITY_MIN as u64..=CAPACITY_MAX as u64,
            get: |config| config.capacity.into(),
            set: |config, leases| config.capacity = leases as u32,
        },
        check: |_| Ok(()),
    },
    Setting {
        name: "cores",
        placeholder: "LIST",
        help: "CPUs to run loops on, such as 0,2-3",
        default: "all that the process may use",
        reloadable: false,
        kind: Kind::Cpus {
            get: Config::loop_cores,
            set: |config, cores| config.cores = Some(cores),
        },
        check: |config| config.cores.as_deref().map_or(Ok(()), check_cores),
    },
    Setting {
        name: "attributes",
        placeholder: "BYTES",
        help: "Attribute bytes kept for each instance",
        default: "",
        reloadable: false,
        kind: Kind::Number {
            range: 0..=ATTRIBUTES_BYTES_MAX as u64,
            get: |config| config.attributes_bytes as u64,
            set: |config, bytes| config.attributes_bytes = bytes as usize,
        },
        check: |_| Ok(()),
    },
    Setting {
        name: "spin",
        placeholder: "TIME",
        help: "How long a loop spins before it sleeps",
        default: "",
        reloadable: false,
        kind: Kind::Time {
            range: Duration::ZERO..=Duration::from_micros(SPIN_US_MAX),
            get: |config| config.spin,
            set: |config, time| config.spin = time,
        },
        check: |_| Ok(()),
    },
    Setting {
        name: "quota",
        placeholder: "LEASES",
        help: "Leases that one source address may hold",
        default: "the capacity",
        reloadable: true,
        kind: Kind::Number {
            range: 1..=CAPACITY_MAX as u64,
            get: |config| config.quota.unwrap_or(config.capacity).into(),
            set: |config, leases| config.quota = Some(leases as u32),
        },
        check: |_| Ok(()),
    },
    Setting {
        name: "deny",
        placeholder: "NAME",
        help: "Service that may not be registered, repeatable; a trailing * makes it a prefix",
        default: "",
        reloadable: true,
        kind: Kind::Texts {
            get: |config| config.deny.clone(),
            set: |config, names| config.deny = names,
        },
        check: |config| check_deny(&config.deny),
    },
    Setting {
        name: "hold",
        placeholder: "ON|OFF",
        help: "Whether instances are held when at least 8 and half of all fall silent together",
        default: "",
        reloadable: false,
        kind: Kind::Switch { get: |config| config.hold, set: |config, on| config.hold = on },
        check: |_| Ok(()),
    },
    Setting {
        name: "tombstone",
        placeholder: "TIME",
        help: "How long a dead instance can come back with its lease, at least its TTL",
        default: "",
        reloadable: false,
        kind: Kind::Time {
            range: Duration::from_secs(1)..=Duration::from_millis(TOMBSTONE_MS_MAX),
            get: |config| config.tombstone,
            set: |config, time| config.tombstone = time,
        },
        check: |_| Ok(()),
    },
    Setting {
        name: "receive_buffer",
        placeholder: "BYTES",
        help: "Receive buffer asked of the kernel for each socket",
        default: "",
        reloadable: false,
        kind: Kind::Number {
            range: RECEIVE_QUEUE_BYTES_MIN as u64..=RECEIVE_QUEUE_BYTES_MAX as u64,
            get: |config| config.receive_buffer as u64,
            set: |config, bytes| config.receive_buffer = bytes as usize,
        },
        check: |_| Ok(()),
    },
    Setting {
        name: "snapshot",
        placeholder: "FILE|off",
        help: "Snapshot file on a disk, or off",
        default: "/var/lib/heartline/NAME.snapshot, for users in ~/.local/state/heartline, NAME \
                  as in `state`",
        reloadable: false,
        kind: Kind::Path {
            get: |config| Some(config.snapshot.clone().unwrap_or_else(|| PathBuf::from("off"))),
            set: |config, path| config.snapshot = Some(path).filter(|path| path != "off"),
        },
        check: |config| match &config.snapshot {
            Some(path) if path.file_name().is_none() => {
                Err(format!("{path:?} is not the name of a file"))
            }
            _ => Ok(()),
        },
    },
    Setting {
        name: "snapshot_interval",
        placeholder: "TIME",
        help: "Time between two snapshots, if anything has changed",
        default: "",
        reloadable: true,
        kind: Kind::Time {
            range: Duration::from_millis(SNAPSHOT_INTERVAL_MS_MIN)
                ..=Duration::from_millis(SNAPSHOT_INTERVAL_MS_MAX),
            get: |config| config.snapshot_interval,
            set: |config, time| config.snapshot_interval = time,
        },
        check: |_| Ok(()),
    },
];

impl Setting {
    /// The setting of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// Checks the value that a configuration has.
    ///
    /// # Errors
    /// When it is out of range, or something else is wrong with it.
    pub fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let is_in_range = match &self.kind {
            Kind::Number { range, get, .. } => range.contains(&get(config)),
            Kind::Time { range, get, .. } => range.contains(&get(config)),
            _ => true,
        };
        if is_in_range {
            return (self.check)(config)
                .map_err(|reason| ConfigError { setting: self.name, reason });
        }
        let [value] = self.texts(config).try_into().expect("a number and a time are one text");
        Err(self.refusal(&value.display().to_string()))
    }

    /// The error for a text that is not a value of this setting.
    pub fn refusal(&self, text: &str) -> ConfigError {
        ConfigError { setting: self.name, reason: format!("{text:?} is not {}", self.accepted()) }
    }

    /// What is accepted, in words.
    fn accepted(&self) -> String {
        match &self.kind {
            Kind::Number { .. } => format!("a whole number from {}", self.limits()),
            Kind::Time { .. } => {
                format!("a time from {}, such as 250us, 20ms or 30s", self.limits())
            }
            Kind::Switch { .. } => "on or off".into(),
            Kind::Cpus { .. } => "a list of CPUs, such as 0,2-3".into(),
            Kind::Path { .. } => "a path".into(),
            Kind::Addresses { .. } => format!(
                "an IP address and port, such as 127.0.0.1:{PORT}, [::1]:{PORT} or [::]:{PORT}"
            ),
            Kind::Texts { .. } => "a text or a list of texts".into(),
        }
    }

    /// The range of a number or a time in words; else nothing.
    fn limits(&self) -> String {
        match &self.kind {
            Kind::Number { range, .. } => format!("{} to {}", range.start(), range.end()),
            Kind::Time { range, .. } => {
                format!("{} to {}", time_text(*range.start()), time_text(*range.end()))
            }
            Kind::Switch { .. } => "on or off".into(),
            _ => String::new(),
        }
    }

    /// Its description with what is accepted and the default, in a line.
    pub fn description(&self) -> String {
        let (limits, default) = (self.limits(), self.default_text());
        let limits = if limits.is_empty() { limits } else { format!(": {limits}") };
        let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
        format!("{}{limits}{default}", self.help)
    }

    fn default_text(&self) -> String {
        if !self.default.is_empty() {
            return self.default.into();
        }
        let texts = self.texts(&Config::default());
        texts.iter().map(|text| text.display().to_string()).collect::<Vec<_>>().join(",")
    }

    /// The value that a configuration has, as it would be written: one text, or one for each
    /// address or name. Memory without a directory has none.
    pub fn texts(&self, config: &Config) -> Vec<OsString> {
        match &self.kind {
            Kind::Number { get, .. } => vec![get(config).to_string().into()],
            Kind::Time { get, .. } => vec![time_text(get(config)).into()],
            Kind::Switch { get, .. } => vec![if get(config) { "on" } else { "off" }.into()],
            Kind::Cpus { get, .. } => {
                let cpus: Vec<String> = get(config).iter().map(usize::to_string).collect();
                vec![cpus.join(",").into()]
            }
            Kind::Path { get, .. } => {
                get(config).map(PathBuf::into_os_string).into_iter().collect()
            }
            Kind::Addresses { get, .. } => {
                get(config).iter().map(|address| address.to_string().into()).collect()
            }
            Kind::Texts { get, .. } => get(config).into_iter().map(OsString::from).collect(),
        }
    }
}

/// A time in the largest unit in which it is a whole number.
fn time_text(time: Duration) -> String {
    const UNITS: [(&str, u128); 6] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1000),
        ("ns", 1),
    ];
    let nanos = time.as_nanos();
    let fits = |&&(_, unit): &&(&str, u128)| nanos > 0 && nanos.is_multiple_of(unit);
    let (name, unit) = UNITS.iter().find(fits).unwrap_or(&("s", 1_000_000_000));
    format!("{}{name}", nanos / unit)
}
