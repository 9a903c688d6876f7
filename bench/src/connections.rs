//! Connections of a port: how long one takes to make, what it costs while it is idle, and whether ten thousand of them
//! are in the way of another one.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter, Other, Skip, memory_kib};
use fltport::{ServerPort, Timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::port::{Accept, Host, LIMIT, NAME, client};

/// Runs the case; the process that measures a connect is the one that connects.
pub fn measure(context: &Context) -> Result<Figures> {
    match context.spec.kind.as_str() {
        "port-connect" => connects(context, false),
        "port-connect-ask" => connects(context, true),
        "port-idle" => idle(context),
        _ => crowd(context),
    }
}

/// The other process: the server of the connects, or the client with many connections.
pub fn answer(answer: &Answer) -> Result<()> {
    match answer.spec.kind.as_str() {
        "port-connect" | "port-connect-ask" => serve(answer),
        _ => hold_many(answer),
    }
}

/// From the call to the connection, or to the first question after it.
fn connects(context: &Context, ask: bool) -> Result<Figures> {
    let directory = context.directory.path().display().to_string();
    let other = Other::start(&context.spec, &directory)?;
    let spin = context.spec.spin;
    drop(client(&directory, spin)?);
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| {
        let client = client(&directory, spin)?;
        if ask {
            client.next_message()?.reply(b"")?;
        }
        Ok(client)
    })?;
    meter.finish()
}

fn serve(answer: &Answer) -> Result<()> {
    let (sender, ports) = mpsc::channel();
    let _server = ServerPort::builder(NAME)
        .directory(&answer.endpoint)
        .max_connections(256)
        .spin(answer.spec.spin)
        .listen(Accept(Mutex::new(sender)))?;
    let ask = answer.spec.kind == "port-connect-ask";
    for port in ports {
        if ask {
            // A client that only tried has gone by now.
            port.ask(&[7; 64], 64, LIMIT).ok();
        }
    }
    Ok(())
}

/// The question that makes the other process open its connections; it replies when it has them.
const OPEN: u8 = 1;
const ECHO: u8 = 7;

/// What idle connections take of the system's and both processes' memory. Rough: the counters are everybody's.
fn idle(context: &Context) -> Result<Figures> {
    let many = allow_files(context)?;
    let host = Host::start(context, many + 1)?;
    let settle = || std::thread::sleep(Duration::from_millis(100));
    host.port.ask(&[ECHO; 64], 64, LIMIT)?;
    settle();
    let before = memory_kib(host.other.pid())?;
    open_many(&host)?;
    settle();
    let after = memory_kib(host.other.pid())?;
    Ok(Figures::only(
        "kib_per_connection",
        (after - before) / f64::from(many),
    ))
}

/// The round trip of one connection beside many idle ones, and before there were any.
fn crowd(context: &Context) -> Result<Figures> {
    let many = allow_files(context)?;
    let host = Host::start(context, many + 1)?;
    let alone = echoes(context, &host)?;
    open_many(&host)?;
    let mut beside = echoes(context, &host)?;
    let ratio = beside.micros(0.5) / alone.micros(0.5);
    beside.extra.push(("ratio_to_alone".to_owned(), ratio));
    beside
        .extra
        .push(("alone_p50_us".to_owned(), alone.micros(0.5)));
    Ok(beside)
}

fn echoes(context: &Context, host: &Host) -> Result<Figures> {
    let mut meter = Meter::new(&context.spec, context.clock, host.other.pid());
    meter.closed_loop(|| Ok(host.port.ask(&[ECHO; 64], 64, LIMIT).map(drop)?))?;
    meter.finish()
}

fn open_many(host: &Host) -> Result<()> {
    let limit = Timeout::after(Duration::from_secs(15));
    let reply = host.port.ask(&[OPEN; 64], 64, limit)?;
    ensure!(
        reply.bytes.first() == Some(&OPEN),
        "the other process could not open them"
    );
    Ok(())
}

fn hold_many(answer: &Answer) -> Result<()> {
    raise_limit()?;
    let first = client(&answer.endpoint, answer.spec.spin)?;
    let mut held = Vec::new();
    loop {
        let message = first.next_message()?;
        let what = message.payload().to_vec();
        if what.first() == Some(&OPEN) {
            for _ in 0..answer.spec.window {
                held.push(client(&answer.endpoint, answer.spec.spin)?);
            }
        }
        message.reply(&what)?;
    }
}

/// The connections of the case, if there may be so many open files.
fn allow_files(context: &Context) -> Result<u32> {
    let many = u32::try_from(context.spec.window)?;
    let allowed = raise_limit()?;
    if allowed < u64::from(many) + 500 {
        let reason = format!("only {allowed} files may be open, which needs root to change");
        return Err(Skip(reason).into());
    }
    Ok(many)
}

fn raise_limit() -> Result<u64> {
    const WANTED: u64 = 65_536;
    let now = getrlimit(Resource::Nofile);
    for maximum in [now.maximum.map(|most| most.max(WANTED)), now.maximum] {
        let wanted = Rlimit {
            current: maximum.map(|most| most.min(WANTED)).or(Some(WANTED)),
            maximum,
        };
        if setrlimit(Resource::Nofile, wanted).is_ok() {
            break;
        }
    }
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}
