//! The configuration of an engine: its values, their defaults, and what is accepted.

mod settings;

use crate::clock::{Nanos, from_ms};
use crate::limits::*;
use crate::region::Place;
pub use settings::{Kind, SETTINGS, Setting};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A setting that is not accepted. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    /// The name of the setting in [`SETTINGS`].
    pub setting: &'static str,
    /// What was wrong and what is accepted.
    pub reason: String,
}

/// A checked configuration. `Config::default()` is what `heartlined` runs with when nothing is
/// said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on; port 0: the kernel chooses; `[::]`: both families.
    pub listen: Vec<SocketAddr>,
    /// Where the memory files are.
    pub state: Place,
    /// Leases there can be.
    pub capacity: u32,
    /// CPUs to run loops on, one each; `None`: every CPU that the process may use.
    pub cores: Option<Vec<usize>>,
    /// Attribute bytes of each instance.
    pub attributes_bytes: usize,
    /// How long a loop spins before it sleeps.
    pub spin: Duration,
    /// Leases that one source address may hold; `None`: as many as there are.
    pub quota: Option<u32>,
    /// Services that may not be registered: names, or prefixes that end in `*`.
    pub deny: Vec<String>,
    /// Whether mass silence is held.
    pub hold: bool,
    /// Shortest tombstone period.
    pub tombstone: Duration,
    /// Receive buffer asked for, for each socket.
    pub receive_buffer: usize,
    /// The snapshot file; `None`: no snapshots. Engines in scratch memory write none either.
    pub snapshot: Option<PathBuf>,
    /// Time between two snapshots.
    pub snapshot_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], PORT))],
            state: Place::Directory(Place::default_directory()),
            capacity: CAPACITY_DEFAULT,
            cores: None,
            attributes_bytes: ATTRIBUTES_BYTES_DEFAULT,
            spin: Duration::ZERO,
            quota: None,
            deny: Vec::new(),
            hold: true,
            tombstone: Duration::from_millis(TOMBSTONE_MS_DEFAULT),
            receive_buffer: RECEIVE_QUEUE_BYTES_DEFAULT,
            snapshot: default_snapshot(&Place::default_directory()),
            snapshot_interval: Duration::from_millis(SNAPSHOT_INTERVAL_MS_DEFAULT),
        }
    }
}

/// Named after the state directory, in `/var/lib/heartline` for root and in the XDG state directory
/// for others (XDG Base Directory Specification 0.8); `None` where there is none.
fn default_snapshot(state: &Path) -> Option<PathBuf> {
    let directory = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib/heartline")
    } else {
        let home = || {
            std::env::home_dir()
                .filter(|home| home.is_absolute())
                .map(|home| home.join(".local/state"))
        };
        let xdg =
            std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        xdg.or_else(home)?.join("heartline")
    };
    let mut name = state.file_name()?.to_owned();
    name.push(".snapshot");
    Some(directory.join(name))
}

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    /// For the first setting with a value that is not accepted, in the order of [`SETTINGS`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        SETTINGS.iter().try_for_each(|setting| setting.check(self))
    }

    /// The settings in which two configurations differ.
    pub(crate) fn differences(&self, other: &Self) -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(|setting| setting.texts(self) != setting.texts(other))
    }

    /// The CPUs to run loops on.
    pub fn loop_cores(&self) -> Vec<usize> {
        let mut cores = self.cores.clone().unwrap_or_else(allowed_cores);
        cores.truncate(LOOPS_MAX);
        cores
    }

    /// The shortest tombstone period in nanoseconds.
    pub(crate) fn tombstone_ns(&self) -> Nanos {
        from_ms(self.tombstone.as_millis() as u64)
    }
}

/// CPUs that the process may use, by its affinity mask.
fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

fn check_cores(cores: &[usize]) -> Result<(), String> {
    let allowed = allowed_cores();
    if cores.is_empty() || cores.len() > LOOPS_MAX {
        return Err(format!("{} CPUs; 1 to {LOOPS_MAX} are accepted", cores.len()));
    }
    for (at, core) in cores.iter().enumerate() {
        if !allowed.contains(core) {
            return Err(format!(
                "CPU {core} is not among those that this process may use: {allowed:?}"
            ));
        }
        if cores[..at].contains(core) {
            return Err(format!("CPU {core} stands there twice; a CPU has one loop"));
        }
    }
    Ok(())
}

fn check_deny(deny: &[String]) -> Result<(), String> {
    let is_pattern = |entry: &String| {
        let name = entry.strip_suffix('*').unwrap_or(entry);
        !entry.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*')
    };
    if deny.len() > DENY_MAX {
        return Err(format!("{} entries; at most {DENY_MAX} are accepted", deny.len()));
    }
    match deny.iter().find(|entry| !is_pattern(entry)) {
        None => Ok(()),
        Some(entry) => Err(format!(
            "{entry:?} is not a service name (1 to {NAME_BYTES_MAX} visible ASCII characters) or \
             a prefix and *"
        )),
    }
}

/// Addresses that a socket can be bound to, none of them twice.
fn check_listen(listen: &[SocketAddr]) -> Result<(), String> {
    if listen.is_empty() || listen.len() > LISTEN_MAX {
        return Err(format!("{} addresses; 1 to {LISTEN_MAX} are accepted", listen.len()));
    }
    for (at, address) in listen.iter().enumerate() {
        let ip = address.ip();
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(format!("{address} is not the address of one machine"));
        }
        if let IpAddr::V6(six) = ip
            && let Some(four) = six.to_ipv4_mapped()
        {
            let port = address.port();
            return Err(format!(
                "{address} is an IPv4 address in the form of IPv6; write {four}:{port}"
            ));
        }
        let covers = |wide: &IpAddr, other: &IpAddr| match wide {
            IpAddr::V6(wide) => wide.is_unspecified(),
            IpAddr::V4(wide) => wide.is_unspecified() && other.is_ipv4(),
        };
        let twice = |other: &&SocketAddr| {
            let (a, b) = (address.ip(), other.ip());
            address.port() != 0
                && address.port() == other.port()
                && (a == b || covers(&a, &b) || covers(&b, &a))
        };
        if let Some(other) = listen[..at].iter().find(twice) {
            return Err(format!(
                "{address} and {other} are the same or one covers the other; leave one away"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(edit: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        edit(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn wrong_values_are_named_with_what_is_accepted() {
        assert_eq!(
            reason(|config| config.capacity = 15),
            "capacity: \"15\" is not a whole number from 16 to 16777216"
        );
        assert_eq!(
            reason(|config| config.spin = Duration::from_millis(1001)),
            "spin: \"1001ms\" is not a time from 0s to 1s, such as 250us, 20ms or 30s"
        );
        assert!(reason(|config| config.tombstone = Duration::ZERO).contains("from 1s to 24h"));
        assert!(reason(|config| config.listen = Vec::new()).contains("1 to 16 are accepted"));
        assert!(reason(|config| config.cores = Some(vec![9999])).contains("not among those"));
        assert!(reason(|config| config.cores = Some(vec![0, 0])).contains("twice"));
        assert!(reason(|config| config.deny = vec![String::new()]).contains("service name"));
        assert!(reason(|config| config.deny = vec!["a*b".into()]).contains("a prefix and *"));
        assert!(reason(|config| config.snapshot = Some("/".into())).contains("name of a file"));
        let listen = |addresses: &[&str]| {
            reason(|config| {
                config.listen = addresses.iter().map(|text| text.parse().unwrap()).collect();
            })
        };
        assert!(listen(&["[::]:80", "127.0.0.1:80"]).contains("covers"));
        assert!(listen(&["224.0.0.1:80"]).contains("one machine"));
        assert!(listen(&["[::ffff:127.0.0.1]:80"]).contains("write 127.0.0.1:80"));
    }

    /// What is written with a setting is read with it, and no two settings share a field.
    #[test]
    fn each_setting_has_its_own_field() {
        let mut changed = Config::default();
        for setting in &SETTINGS {
            let before = changed.clone();
            match &setting.kind {
                Kind::Number { range, set, .. } => set(&mut changed, *range.start()),
                Kind::Time { range, set, .. } => set(&mut changed, *range.end()),
                Kind::Switch { get, set } => {
                    let other = !get(&changed);
                    set(&mut changed, other);
                }
                Kind::Cpus { set, .. } => set(&mut changed, vec![65_000]),
                Kind::Path { set, .. } => set(&mut changed, PathBuf::from("/dev/shm/other")),
                Kind::Addresses { set, .. } => {
                    set(&mut changed, vec![SocketAddr::from(([127, 0, 0, 1], 7))]);
                }
                Kind::Texts { set, .. } => set(&mut changed, vec!["other".into()]),
            }
            let names: Vec<&str> = before.differences(&changed).map(|other| other.name).collect();
            let expected: &[&str] = match setting.name {
                // These two are in the default of another.
                "state" => &["state", "snapshot"],
                "capacity" => &["capacity", "quota"],
                name => &[name],
            };
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn the_table_describes_itself() {
        let description = |name| Setting::named(name).unwrap().description();
        assert_eq!(
            description("capacity"),
            "Leases to make room for: 16 to 16777216 [default: 65536]"
        );
        assert_eq!(
            description("spin"),
            "How long a loop spins before it sleeps: 0s to 1s [default: 0s]"
        );
        assert!(description("listen").ends_with("[default: 127.0.0.1:19528]"));
        assert!(description("quota").ends_with(": 1 to 16777216 [default: the capacity]"));
        assert!(description("deny").ends_with("a prefix"), "an empty default is not shown");
        assert!(SETTINGS.iter().all(|setting| setting.check(&Config::default()).is_ok()));
    }
}
