//! `flthostd`: the filter host. `fltctl guard` starts it; see there for what it does.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flthost::cache::CacheMode;
use flthost::config::Config;
use flthost::filters::Agree;
use flthost::judge::Surge;
use flthost::mutes::{RULES_MAX, Sort};
use flthost::rule::Rule;
use flthost::service_port::{SCAN, ServicePort};
use flthost::supervisor::Ending;
use flthost::{Policies, say, supervisor};

/// Filter host: asks services, through ports, whether files may be opened or executed.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  flthostd --guard /srv/upload --strict\n\n`fltctl guard` runs this with a live view."
)]
struct Arguments {
    /// Name among other hosts: ports are below \fltport\NAME
    #[arg(long)]
    instance: Option<String>,
    /// Directory to guard; a mount point is guarded as a whole filesystem
    #[arg(long = "guard", value_name = "DIR", required = true)]
    guards: Vec<PathBuf>,
    /// What is not asked about: path=FILE, tree=DIR, process=FILE, user=NAME, cgroup=PATH, fstype=NAME; open: or exec:
    /// before it for opens or executions alone, a time such as 10m: for a while
    #[arg(long = "mute", value_name = "KIND=VALUE")]
    mutes: Vec<String>,
    /// Ask only about what one of these matches; written as for --mute
    #[arg(long = "only", value_name = "KIND=VALUE")]
    onlys: Vec<String>,
    /// Directory whose files are not asked about: as --mute tree=DIR
    #[arg(long = "exclude", value_name = "DIR")]
    excludes: Vec<PathBuf>,
    /// Port at which services are asked: those of higher altitudes first, those of one altitude side by side. Without this,
    /// or with a scanner: scan, at altitude 328000
    #[arg(long = "service", value_name = "NAME[@ALTITUDE]")]
    services: Vec<ServicePort>,
    /// Of services that are asked side by side: all have to allow, or the first verdict counts
    #[arg(long, value_enum, default_value_t)]
    agree: Agreement,
    /// Let services of this port ask for mutes of their own, for an hour at most
    #[arg(long, value_name = "PORT")]
    grant_mutes: Vec<String>,
    /// YARA rules, a file or a directory; without it only the EICAR test file is found
    #[arg(long, value_name = "PATH")]
    rules: Option<PathBuf>,
    /// Deny whatever cannot be decided
    #[arg(long)]
    strict: bool,
    /// Deny nothing, show what would be denied
    #[arg(long)]
    monitor: bool,
    /// Time that services have for an operation, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    deadline_ms: u64,
    /// Sets one policy, such as timeout=deny, overload=EAGAIN, exec:crash=deny, or av/no_service=deny for one port
    #[arg(long = "policy", value_name = "[PORT/]CAUSE=ACTION")]
    policies: Vec<String>,
    /// Let operations go on that policy has denied a hundred times, and for five seconds or more, while no service has
    /// answered: absent: for want of one; silent: also where none answers in time, which files that keep all services busy
    /// can bring about; never is the default with --strict
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_if("strict", "true", "never"),
        default_value = "absent"
    )]
    surge: When,
    /// Where verdicts are kept: off, worker, or kernel (for files that only root can write to)
    #[arg(long, value_name = "WHERE", default_value = "kernel")]
    cache: CacheMode,
    /// Time that a service may ask for beyond the deadline, once for an operation at each altitude, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 8_000, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    more_time_ms: u64,
    /// Do not start a scanner; services connect by themselves
    #[arg(long)]
    no_scanner: bool,
    /// The scanner's program, instead of fltscand beside this program
    #[arg(long, value_name = "FILE")]
    scanner: Option<PathBuf>,
    /// Restarts of a worker within 10 seconds before operations are decided by policy alone
    #[arg(long, value_name = "N", default_value_t = 5)]
    restarts: usize,
    /// Do not guard other filesystems that are mounted below a guarded directory
    #[arg(long)]
    no_mounts: bool,
    /// Guard network and FUSE filesystems below a guarded directory too
    #[arg(long, conflicts_with = "no_mounts")]
    remote: bool,
    /// Where ports live, instead of the usual place
    #[arg(long, value_name = "DIR")]
    port_directory: Option<PathBuf>,
    /// Guard a directory that is no mount point, and has more than 10,000 directories
    #[arg(long)]
    many_directories: bool,
    /// Take over from the host of the same name that runs, without an operation being lost; it ends
    #[arg(long)]
    take_over: bool,
    /// End when standard input ends
    #[arg(long)]
    lifeline: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Agreement {
    #[default]
    All,
    First,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum When {
    Never,
    Absent,
    Silent,
}

fn main() -> ExitCode {
    match configure(Arguments::parse())
        .and_then(|config| supervisor::run(&config).map_err(|error| error.to_string()))
    {
        Ok(Ending::Told) => ExitCode::SUCCESS,
        Ok(Ending::HandedOver) => ExitCode::from(4),
        Err(error) => {
            say(error);
            ExitCode::from(2)
        }
    }
}

fn configure(arguments: Arguments) -> Result<Config, String> {
    let mut policies = if arguments.strict {
        Policies::strict()
    } else {
        Policies::lenient()
    };
    policies.deadline = Duration::from_millis(arguments.deadline_ms);
    let (of_ports, of_host): (Vec<_>, Vec<_>) = arguments
        .policies
        .iter()
        .partition(|text| text.contains('/'));
    of_host.iter().try_for_each(|policy| policies.set(policy))?;
    let services = services(&arguments, &of_ports, policies)?;
    let mutes = rules(&arguments)?;
    let beside = || {
        let own = std::env::current_exe()
            .map_err(|error| format!("cannot find this program's folder: {error}"))?;
        Ok::<_, String>(own.with_file_name("fltscand"))
    };
    let scanner = match arguments.scanner {
        _ if arguments.no_scanner => None,
        Some(path) => Some(path),
        None => Some(beside()?),
    };
    Ok(Config {
        instance: arguments.instance,
        guards: arguments.guards,
        mutes,
        services,
        agree: match arguments.agree {
            Agreement::All => Agree::All,
            Agreement::First => Agree::First,
        },
        rules: arguments.rules,
        scanner,
        policies,
        surge: match arguments.surge {
            When::Never => Surge::Never,
            When::Absent => Surge::Absent,
            When::Silent => Surge::Silent,
        },
        restarts: arguments.restarts,
        monitor: arguments.monitor,
        cache: arguments.cache,
        more_time: Duration::from_millis(arguments.more_time_ms),
        port_directory: arguments.port_directory,
        many_directories: arguments.many_directories,
        take_over: arguments.take_over,
        lifeline: arguments.lifeline,
        mounts: !arguments.no_mounts,
        remote: arguments.remote,
        filters: Vec::new(),
    })
}

/// The ports at which services are asked, with what is said of single ones.
fn services(
    arguments: &Arguments,
    policies: &[&String],
    of_host: Policies,
) -> Result<Vec<ServicePort>, String> {
    let mut ports = arguments.services.clone();
    let has_scan = ports.iter().any(|port| port.name == SCAN);
    if !has_scan && (ports.is_empty() || !arguments.no_scanner) {
        ports.push(ServicePort::new(SCAN));
    }
    ServicePort::check(&ports).map_err(of("--service"))?;
    let names: Vec<_> = ports.iter().map(|port| port.name.clone()).collect();
    let unknown = |name: &str| format!("{name}: no such port; there are {}", names.join(", "));
    let find = |name: &str| {
        let place = names.iter().position(|other| other == name);
        place.ok_or_else(|| unknown(name))
    };
    for text in policies {
        let (name, policy) = text.split_once('/').unwrap_or(("", text));
        let place = find(name).map_err(of("--policy"))?;
        if policy.contains("crash") {
            return Err(format!(
                "--policy {text}: a crash is the host's, and has one policy for all ports"
            ));
        }
        if let Some(port) = ports.get_mut(place) {
            port.policies.get_or_insert(of_host).set(policy)?;
        }
    }
    for name in &arguments.grant_mutes {
        let place = find(name).map_err(of("--grant-mutes"))?;
        if let Some(port) = ports.get_mut(place) {
            port.grant_mutes = true;
        }
    }
    Ok(ports)
}

/// All rules about what is asked, looked up now: later nothing may wait for a name.
fn rules(arguments: &Arguments) -> Result<Vec<(Sort, Rule)>, String> {
    let mut rules = Vec::new();
    for text in &arguments.mutes {
        rules.push((Sort::Mute, Rule::typed(text).map_err(of("--mute"))?));
    }
    for text in &arguments.onlys {
        rules.push((Sort::Only, Rule::typed(text).map_err(of("--only"))?));
    }
    for directory in &arguments.excludes {
        let rule = Rule::below(directory).map_err(of("--exclude"))?;
        rules.push((Sort::Mute, rule));
    }
    if rules.len() > RULES_MAX {
        return Err(format!(
            "{} rules are more than the {RULES_MAX} that each operation can be compared with; a tree= stands for many",
            rules.len()
        ));
    }
    Ok(rules)
}

fn of(option: &str) -> impl Fn(String) -> String {
    move |why| format!("{option} {why}")
}
