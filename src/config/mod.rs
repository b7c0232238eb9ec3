//! Every knob of the engine: raw values from flags, environment and file, checked once, wrong ones
//! refused with the reason.

use crate::clock::{Nanos, from_ms};
use crate::limits::*;
use crate::region::Place;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A setting that is not accepted. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    /// The name of the setting, as in the configuration file.
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
            state: Place::Directory(default_state()),
            capacity: CAPACITY_DEFAULT,
            cores: None,
            attributes_bytes: ATTRIBUTES_BYTES_DEFAULT,
            spin: Duration::ZERO,
            quota: None,
            deny: Vec::new(),
            hold: true,
            tombstone: Duration::from_millis(TOMBSTONE_MS_DEFAULT),
            receive_buffer: RECEIVE_QUEUE_BYTES_DEFAULT,
            snapshot: default_snapshot(&default_state()),
            snapshot_interval: Duration::from_millis(SNAPSHOT_INTERVAL_MS_DEFAULT),
        }
    }
}

/// `/dev/shm/heartline` for root, `/dev/shm/heartline-UID` for others: tmpfs on every Linux with
/// POSIX shared memory.
fn default_state() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        PathBuf::from("/dev/shm/heartline")
    } else {
        PathBuf::from(format!("/dev/shm/heartline-{}", uid.as_raw()))
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

/// Raw values, as flags, environment variables (`HEARTLINE_` and the name in capitals) and the
/// configuration file (same names) give them.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Address to listen on, repeatable; the IPv6 wildcard listens on both families [default:
    /// 127.0.0.1:19528]
    #[arg(long, value_name = "ADDR:PORT", env = "HEARTLINE_LISTEN", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub listen: Option<Vec<String>>,
    /// Directory on tmpfs for the memory files [default: /dev/shm/heartline, for users
    /// /dev/shm/heartline-UID]
    #[arg(long, value_name = "DIR", env = "HEARTLINE_STATE")]
    pub state: Option<PathBuf>,
    /// Leases to make room for, 16 to 16777216 [default: 65536]
    #[arg(long, value_name = "LEASES", env = "HEARTLINE_CAPACITY", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub capacity: Option<String>,
    /// CPUs to run loops on, such as 0,2-3 [default: all that the process may use]
    #[arg(long, value_name = "LIST", env = "HEARTLINE_CORES", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub cores: Option<String>,
    /// Attribute bytes kept for each instance, 0 to 512 [default: 128]
    #[arg(long, value_name = "BYTES", env = "HEARTLINE_ATTRIBUTES", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub attributes: Option<String>,
    /// How long a loop spins before it sleeps, 0s to 1s [default: 0s]
    #[arg(long, value_name = "TIME", env = "HEARTLINE_SPIN", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub spin: Option<String>,
    /// Leases that one source address may hold, 1 to 16777216 [default: the capacity]
    #[arg(long, value_name = "LEASES", env = "HEARTLINE_QUOTA", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub quota: Option<String>,
    /// Service that may not be registered, repeatable; a trailing * makes it a prefix
    #[arg(long, value_name = "NAME", env = "HEARTLINE_DENY", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub deny: Option<Vec<String>>,
    /// Whether instances are held when at least 8 and half of all fall silent together: on or off
    /// [default: on]
    #[arg(long, value_name = "ON|OFF", env = "HEARTLINE_HOLD", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub hold: Option<String>,
    /// How long a dead instance can come back with its lease, 1s to 24h (at least its TTL)
    /// [default: 1m]
    #[arg(long, value_name = "TIME", env = "HEARTLINE_TOMBSTONE", allow_hyphen_values = true)]
    #[serde(deserialize_with = "scalar")]
    pub tombstone: Option<String>,
    /// Receive buffer asked of the kernel for each socket, 4096 to 1073741824 [default: 16777216]
    #[arg(
        long,
        value_name = "BYTES",
        env = "HEARTLINE_RECEIVE_BUFFER",
        allow_hyphen_values = true
    )]
    #[serde(alias = "receive-buffer", deserialize_with = "scalar")]
    pub receive_buffer: Option<String>,
    /// Snapshot file on a disk, or off [default: /var/lib/heartline/NAME.snapshot, for users in
    /// ~/.local/state/heartline, NAME as in --state]
    #[arg(long, value_name = "FILE|off", env = "HEARTLINE_SNAPSHOT")]
    pub snapshot: Option<PathBuf>,
    /// Time between two snapshots, if anything has changed, 10ms to 1h [default: 1s]
    #[arg(
        long,
        value_name = "TIME",
        env = "HEARTLINE_SNAPSHOT_INTERVAL",
        allow_hyphen_values = true
    )]
    #[serde(alias = "snapshot-interval", deserialize_with = "scalar")]
    pub snapshot_interval: Option<String>,
}

impl Options {
    /// The environment variables that give values.
    pub const VARIABLES: [&'static str; 14] = [
        "HEARTLINE_LISTEN",
        "HEARTLINE_STATE",
        "HEARTLINE_CAPACITY",
        "HEARTLINE_CORES",
        "HEARTLINE_ATTRIBUTES",
        "HEARTLINE_SPIN",
        "HEARTLINE_QUOTA",
        "HEARTLINE_DENY",
        "HEARTLINE_HOLD",
        "HEARTLINE_TOMBSTONE",
        "HEARTLINE_RECEIVE_BUFFER",
        "HEARTLINE_SNAPSHOT",
        "HEARTLINE_SNAPSHOT_INTERVAL",
        "HEARTLINE_CONFIG",
    ];

    /// Reads a TOML file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let fail = |reason: String| ConfigError {
            setting: "config",
            reason: format!("{}: {reason}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        toml::from_str(&text).map_err(|error| fail(error.to_string().trim_end().to_owned()))
    }

    /// These values, and those of `other` where these say nothing.
    pub fn or(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            state: self.state.or(other.state),
            capacity: self.capacity.or(other.capacity),
            cores: self.cores.or(other.cores),
            attributes: self.attributes.or(other.attributes),
            spin: self.spin.or(other.spin),
            quota: self.quota.or(other.quota),
            deny: self.deny.or(other.deny),
            hold: self.hold.or(other.hold),
            tombstone: self.tombstone.or(other.tombstone),
            receive_buffer: self.receive_buffer.or(other.receive_buffer),
            snapshot: self.snapshot.or(other.snapshot),
            snapshot_interval: self.snapshot_interval.or(other.snapshot_interval),
        }
    }

    /// Checks every value; what is not said gets its default.
    pub fn check(&self) -> Result<Config, ConfigError> {
        let defaults = Config::default();
        let config = Config {
            listen: match &self.listen {
                Some(addresses) => {
                    addresses.iter().map(|text| address(text)).collect::<Result<_, _>>()?
                }
                None => defaults.listen,
            },
            snapshot: match &self.snapshot {
                Some(path) if path.as_os_str() == "off" => None,
                Some(path) => Some(path.clone()),
                None => default_snapshot(self.state.as_deref().unwrap_or(&default_state())),
            },
            snapshot_interval: time(
                "snapshot_interval",
                &self.snapshot_interval,
                Duration::from_millis(SNAPSHOT_INTERVAL_MS_MIN),
                Duration::from_millis(SNAPSHOT_INTERVAL_MS_MAX),
            )?
            .unwrap_or(defaults.snapshot_interval),
            state: self.state.clone().map_or(defaults.state, Place::Directory),
            capacity: number("capacity", &self.capacity, CAPACITY_MIN, CAPACITY_MAX)?
                .unwrap_or(defaults.capacity),
            cores: self.cores.as_deref().map(core_list).transpose()?,
            attributes_bytes: number(
                "attributes",
                &self.attributes,
                0,
                ATTRIBUTES_BYTES_MAX as u32,
            )?
            .map_or(defaults.attributes_bytes, |bytes| bytes as usize),
            spin: time("spin", &self.spin, Duration::ZERO, Duration::from_micros(SPIN_US_MAX))?
                .unwrap_or(defaults.spin),
            quota: number("quota", &self.quota, 1, CAPACITY_MAX)?,
            deny: self.deny.clone().unwrap_or_default(),
            hold: match self.hold.as_deref() {
                None | Some("on") => true,
                Some("off") => false,
                Some(other) => return refuse("hold", format!("{other:?} is neither on nor off")),
            },
            tombstone: time(
                "tombstone",
                &self.tombstone,
                Duration::from_secs(1),
                Duration::from_millis(TOMBSTONE_MS_MAX),
            )?
            .unwrap_or(defaults.tombstone),
            receive_buffer: number(
                "receive_buffer",
                &self.receive_buffer,
                4096,
                RECEIVE_QUEUE_BYTES_MAX as u32,
            )?
            .map_or(defaults.receive_buffer, |bytes| bytes as usize),
        };
        config.validate()?;
        Ok(config)
    }
}

impl Config {
    /// Checks what a caller who built the value by hand may have got wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range("capacity", self.capacity, CAPACITY_MIN, CAPACITY_MAX)?;
        range("attributes", self.attributes_bytes, 0, ATTRIBUTES_BYTES_MAX)?;
        range("receive_buffer", self.receive_buffer, 4096, RECEIVE_QUEUE_BYTES_MAX)?;
        range("quota", self.quota.unwrap_or(1), 1, CAPACITY_MAX)?;
        if self.spin > Duration::from_micros(SPIN_US_MAX) {
            return refuse("spin", format!("{:?} is more than 1s", self.spin));
        }
        if !(Duration::from_secs(1)..=Duration::from_millis(TOMBSTONE_MS_MAX))
            .contains(&self.tombstone)
        {
            return refuse("tombstone", format!("{:?} is not from 1s to 24h", self.tombstone));
        }
        let interval = Duration::from_millis(SNAPSHOT_INTERVAL_MS_MIN)
            ..=Duration::from_millis(SNAPSHOT_INTERVAL_MS_MAX);
        if !interval.contains(&self.snapshot_interval) {
            return refuse(
                "snapshot_interval",
                format!("{:?} is not from 10ms to 1h", self.snapshot_interval),
            );
        }
        if self.snapshot.as_ref().is_some_and(|path| path.file_name().is_none()) {
            return refuse("snapshot", format!("{:?} is not the name of a file", self.snapshot));
        }
        if self.listen.is_empty() || self.listen.len() > LISTEN_MAX {
            return refuse(
                "listen",
                format!("{} addresses; 1 to {LISTEN_MAX} are accepted", self.listen.len()),
            );
        }
        if self.deny.len() > DENY_MAX {
            return refuse(
                "deny",
                format!("{} entries; at most {DENY_MAX} are accepted", self.deny.len()),
            );
        }
        if let Some(entry) = self.deny.iter().find(|entry| !is_pattern(entry)) {
            return refuse(
                "deny",
                format!(
                    "{entry:?} is not a service name (1 to {NAME_BYTES_MAX} visible ASCII characters) or a prefix and *"
                ),
            );
        }
        check_listen(&self.listen)?;
        match &self.cores {
            Some(cores) => check_cores(cores),
            None => Ok(()),
        }
    }

    /// The configuration as a file that would give it.
    pub fn to_file(&self) -> String {
        let quoted =
            |texts: Vec<String>| texts.into_iter().map(toml_text).collect::<Vec<_>>().join(", ");
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let state = match &self.state {
            Place::Directory(path) => {
                format!("state = {}\n", toml_text(path.display().to_string()))
            }
            Place::Scratch => String::new(),
        };
        format!(
            "listen = [{}]\n{state}capacity = {}\ncores = {:?}\nattributes = {}\nspin = {:?}\nquota = {}\ndeny = [{}]\nhold = {:?}\n\
             tombstone = {:?}\nreceive_buffer = {}\nsnapshot = {}\nsnapshot_interval = {:?}\n",
            quoted(self.listen.iter().map(SocketAddr::to_string).collect()),
            self.capacity,
            self.loop_cores().iter().map(usize::to_string).collect::<Vec<_>>().join(","),
            self.attributes_bytes,
            time(self.spin),
            self.quota.unwrap_or(self.capacity),
            quoted(self.deny.clone()),
            if self.hold { "on" } else { "off" },
            time(self.tombstone),
            self.receive_buffer,
            toml_text(
                self.snapshot
                    .as_ref()
                    .map_or_else(|| "off".to_owned(), |path| path.display().to_string())
            ),
            time(self.snapshot_interval),
        )
    }

    /// Names of the settings in which two configurations differ.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self {
            listen,
            state,
            capacity,
            cores,
            attributes_bytes,
            spin,
            quota,
            deny,
            hold,
            tombstone,
            receive_buffer,
            snapshot,
            snapshot_interval,
        } = self;
        let settings = [
            ("listen", *listen != other.listen),
            ("state", *state != other.state),
            ("capacity", *capacity != other.capacity),
            ("cores", *cores != other.cores),
            ("attributes", *attributes_bytes != other.attributes_bytes),
            ("spin", *spin != other.spin),
            ("quota", *quota != other.quota),
            ("deny", *deny != other.deny),
            ("hold", *hold != other.hold),
            ("tombstone", *tombstone != other.tombstone),
            ("receive_buffer", *receive_buffer != other.receive_buffer),
            ("snapshot", *snapshot != other.snapshot),
            ("snapshot_interval", *snapshot_interval != other.snapshot_interval),
        ];
        settings.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
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

/// A text as a TOML string: its escapes are not those of Rust.
fn toml_text(text: String) -> String {
    toml::Value::String(text).to_string()
}

/// CPUs that the process may use, by its affinity mask.
fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

fn check_cores(cores: &[usize]) -> Result<(), ConfigError> {
    let allowed = allowed_cores();
    if cores.is_empty() || cores.len() > LOOPS_MAX {
        return refuse("cores", format!("{} CPUs; 1 to {LOOPS_MAX} are accepted", cores.len()));
    }
    for (at, core) in cores.iter().enumerate() {
        if !allowed.contains(core) {
            return refuse(
                "cores",
                format!("CPU {core} is not among those that this process may use: {allowed:?}"),
            );
        }
        if cores[..at].contains(core) {
            return refuse("cores", format!("CPU {core} stands there twice"));
        }
    }
    Ok(())
}

fn is_pattern(entry: &str) -> bool {
    let name = entry.strip_suffix('*').unwrap_or(entry);
    !entry.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*')
}

/// Addresses that a socket can be bound to, none of them twice.
fn check_listen(listen: &[SocketAddr]) -> Result<(), ConfigError> {
    for (at, address) in listen.iter().enumerate() {
        let ip = address.ip();
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return refuse("listen", format!("{address} is not the address of one machine"));
        }
        if let IpAddr::V6(six) = ip
            && let Some(four) = six.to_ipv4_mapped()
        {
            return refuse(
                "listen",
                format!(
                    "{address} is an IPv4 address in IPv6 clothes; write {four}:{}",
                    address.port()
                ),
            );
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
            return refuse(
                "listen",
                format!("{address} and {other} are the same or one covers the other"),
            );
        }
    }
    Ok(())
}

fn refuse<T>(setting: &'static str, reason: String) -> Result<T, ConfigError> {
    Err(ConfigError { setting, reason })
}

fn range<T: PartialOrd + std::fmt::Display>(
    setting: &'static str,
    value: T,
    low: T,
    high: T,
) -> Result<(), ConfigError> {
    if value < low || value > high {
        refuse(setting, format!("{value} is not from {low} to {high}"))
    } else {
        Ok(())
    }
}

fn number(
    setting: &'static str,
    text: &Option<String>,
    low: u32,
    high: u32,
) -> Result<Option<u32>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(value) if (low..=high).contains(&value) => Ok(Some(value)),
        _ => refuse(setting, format!("{text:?} is not a whole number from {low} to {high}")),
    }
}

fn time(
    setting: &'static str,
    text: &Option<String>,
    low: Duration,
    high: Duration,
) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    match humantime::parse_duration(text) {
        Ok(value) if (low..=high).contains(&value) => Ok(Some(value)),
        _ => refuse(
            setting,
            format!(
                "{text:?} is not a time from {} to {}, such as 250us, 20ms or 30s",
                humantime::format_duration(low),
                humantime::format_duration(high)
            ),
        ),
    }
}

fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().or_else(|_| {
        refuse("listen", format!("{text:?} is not an IP address and port, such as 127.0.0.1:{PORT}, [::1]:{PORT} or [::]:{PORT}"))
    })
}

fn core_list(text: &str) -> Result<Vec<usize>, ConfigError> {
    let wrong = || ConfigError {
        setting: "cores",
        reason: format!("{text:?} is not a list of CPUs, such as 0,2-3"),
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last > 65_535 {
            return Err(wrong());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

/// A value of the file that may be written as text, a number, a boolean or a list; what it must be
/// is checked as for flags.
fn scalar<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    fn text(value: toml::Value) -> String {
        match value {
            toml::Value::String(text) => text,
            toml::Value::Boolean(on) => if on { "on" } else { "off" }.to_owned(),
            toml::Value::Array(values) => {
                values.into_iter().map(text).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        }
    }
    toml::Value::deserialize(deserializer).map(text).map(Some)
}

/// A list of texts, or a single one.
fn list<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum List {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match List::deserialize(deserializer)? {
        List::One(text) => vec![text],
        List::Many(texts) => texts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(options: Options) -> String {
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(Options::default().check().unwrap(), Config::default());
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let flags = Options {
            deny: Some(vec!["a".into(), "b-*".into()]),
            spin: Some("20us".into()),
            ..Options::default()
        };
        let config = flags.check().unwrap();
        let again = toml::from_str::<Options>(&config.to_file()).unwrap().check().unwrap();
        assert_eq!(again.to_file(), config.to_file());
        let loose: Options =
            toml::from_str("cores = [0]\nlisten = \"127.0.0.1:7\"\nreceive-buffer = 8192").unwrap();
        assert_eq!(
            (loose.cores.as_deref(), loose.receive_buffer.as_deref()),
            (Some("0"), Some("8192"))
        );
        let wrong: Options = toml::from_str("capacity = 64.5").unwrap();
        assert!(reason(wrong).contains("whole number from 16"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Options { capacity: Some("1024".into()), ..Options::default() };
        let file: Options =
            toml::from_str("capacity = 2048\nspin = \"20us\"\nhold = false\ndeny = [\"a*\"]")
                .unwrap();
        let config = flags.or(file).check().unwrap();
        assert_eq!(
            (config.capacity, config.spin, config.hold),
            (1024, Duration::from_micros(20), false)
        );
        assert_eq!(config.deny, ["a*"]);
    }

    #[test]
    fn wrong_values_are_named_with_what_is_accepted() {
        let with = |edit: fn(&mut Options)| {
            let mut options = Options::default();
            edit(&mut options);
            reason(options)
        };
        assert_eq!(
            with(|o| o.capacity = Some("15".into())),
            "capacity: \"15\" is not a whole number from 16 to 16777216"
        );
        assert!(with(|o| o.capacity = Some("many".into())).contains("from 16 to 16777216"));
        assert!(with(|o| o.spin = Some("2s".into())).contains("from 0s to 1s"));
        assert!(with(|o| o.tombstone = Some("soon".into())).contains("from 1s to 1day"));
        assert!(with(|o| o.hold = Some("maybe".into())).contains("neither on nor off"));
        assert!(with(|o| o.listen = Some(vec!["localhost".into()])).contains("127.0.0.1:19528"));
        assert!(with(|o| o.cores = Some("9999".into())).contains("not among those"));
        assert!(with(|o| o.cores = Some("0,0".into())).contains("twice"));
        assert!(with(|o| o.deny = Some(vec![String::new()])).contains("service name"));
        assert!(with(|o| o.deny = Some(vec!["a*b".into()])).contains("a prefix and *"));
        assert!(
            with(|o| o.listen = Some(vec!["[::]:80".into(), "127.0.0.1:80".into()]))
                .contains("covers")
        );
        assert!(with(|o| o.listen = Some(vec!["224.0.0.1:80".into()])).contains("one machine"));
        assert!(toml::from_str::<Options>("capcity = 1").is_err(), "a misspelt name is refused");
    }
}
