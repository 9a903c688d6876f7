//! zbus from peer to peer over a Unix socket, without a bus between.

use std::rc::Rc;

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context, Figures, Other, PATIENCE, prepared};
use serde_bytes::{ByteBuf, Bytes};
use tokio::net::{UnixListener, UnixStream};
use zbus::connection::Builder;
use zbus::{Connection, Guid};

use crate::tasks::{block_on, measure as measure_tasks};

const PATH: &str = "/org/example/Echo";
const INTERFACE: &str = "org.example.Echo";

struct Echo;

#[zbus::interface(name = "org.example.Echo")]
impl Echo {
    fn echo(&self, bytes: ByteBuf) -> ByteBuf {
        bytes
    }
}

/// Method calls.
pub fn measure(context: &Context) -> Result<Figures> {
    let (_, text) = prepared(context);
    let other = Other::start(&context.spec, &text)?;
    block_on(async {
        let connection = Rc::new(open(&text).await?);
        let question: Rc<[u8]> = vec![7; context.spec.size].into();
        measure_tasks(context, &other, || {
            let (connection, question) = (Rc::clone(&connection), Rc::clone(&question));
            move || call(Rc::clone(&connection), Rc::clone(&question))
        })
        .await
    })
}

async fn call(connection: Rc<Connection>, question: Rc<[u8]>) -> Result<()> {
    let body = Bytes::new(&question);
    let reply = connection
        .call_method(None::<&str>, PATH, Some(INTERFACE), "Echo", &body)
        .await?;
    let body = reply.body();
    let bytes: &Bytes = body.deserialize()?;
    ensure!(bytes.len() == question.len(), "a reply too short");
    Ok(())
}

/// The connecting side; the other process may not be there yet.
async fn open(path: &str) -> Result<Connection> {
    let end = std::time::Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(path).await {
            Ok(stream) => break stream,
            Err(error) if std::time::Instant::now() > end => return Err(error)?,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
        }
    };
    Ok(Builder::unix_stream(stream.into_std()?)
        .p2p()
        .build()
        .await?)
}

/// Connects again and again; with a first call if the case wants one.
pub fn connects(context: &Context) -> Result<Figures> {
    let asks = context.spec.kind.ends_with("-ask");
    let (_, text) = prepared(context);
    let other = Other::start(&context.spec, &text)?;
    let question: Rc<[u8]> = vec![7; context.spec.size].into();
    let text: Rc<str> = text.into();
    block_on(async {
        drop(open(&text).await?);
        measure_tasks(context, &other, || {
            let (text, question) = (Rc::clone(&text), Rc::clone(&question));
            move || connect(Rc::clone(&text), asks.then(|| Rc::clone(&question)))
        })
        .await
    })
}

async fn connect(path: Rc<str>, question: Option<Rc<[u8]>>) -> Result<Rc<Connection>> {
    let connection = Rc::new(open(&path).await?);
    if let Some(question) = question {
        call(Rc::clone(&connection), question).await?;
    }
    Ok(connection)
}

/// Serves every connection.
pub fn answer(answer: &Answer) -> Result<()> {
    block_on(async {
        let listener = UnixListener::bind(&answer.endpoint)?;
        let guid = Guid::generate();
        // The last ones are kept: dropping one ends it.
        let mut kept = std::collections::VecDeque::new();
        loop {
            let (stream, _) = listener.accept().await?;
            let connection = Builder::unix_stream(stream.into_std()?)
                .server(&guid)
                .p2p()
                .serve_at(PATH, Echo)
                .build()
                .await;
            kept.extend(connection.ok());
            if kept.len() > 8 {
                kept.pop_front();
            }
        }
    })
}
