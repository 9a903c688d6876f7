//! tonic over a Unix socket: unary calls, with a codec that hands bytes through as they are.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::{Buf, BufMut, Bytes};
use fltbench_common::{Answer, Context as Case, Figures, Other, PATIENCE, prepared};
use futures::stream;
use tokio::net::UnixListener;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::tasks::{block_on, measure as measure_tasks};

/// Bytes in, bytes out.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What a generated service would be.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "example.Echo";
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async { Ok(Response::new(request.into_inner())) })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async { Ok(tonic::server::Grpc::new(Raw).unary(Self, request).await) })
    }
}

/// Calls.
pub fn measure(case: &Case) -> Result<Figures> {
    let (_, text) = prepared(case);
    let other = Other::start(&case.spec, &text)?;
    block_on(async {
        let channel = open(&text).await?;
        let question = Bytes::from(vec![7; case.spec.size]);
        measure_tasks(case, &other, || {
            let (client, question) = (Grpc::new(channel.clone()), question.clone());
            move || call(client.clone(), question.clone())
        })
        .await
    })
}

async fn call(mut client: Grpc<Channel>, question: Bytes) -> Result<()> {
    let length = question.len();
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/example.Echo/Echo");
    let reply = client.unary(Request::new(question), path, Raw).await?;
    ensure!(reply.into_inner().len() == length, "a reply too short");
    Ok(())
}

/// The connecting side; the other process may not be there yet.
async fn open(path: &str) -> Result<Channel> {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        match Endpoint::from_shared(format!("unix:{path}"))?
            .connect()
            .await
        {
            Ok(channel) => return Ok(channel),
            Err(error) if std::time::Instant::now() > end => return Err(error)?,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Connects and calls, again and again.
pub fn connects(case: &Case) -> Result<Figures> {
    let (_, text) = prepared(case);
    let other = Other::start(&case.spec, &text)?;
    let question = Bytes::from(vec![7; case.spec.size]);
    let text: Rc<str> = text.into();
    block_on(async {
        drop(open(&text).await?);
        measure_tasks(case, &other, || {
            let (text, question) = (Rc::clone(&text), question.clone());
            move || connect(Rc::clone(&text), question.clone())
        })
        .await
    })
}

async fn connect(path: Rc<str>, question: Bytes) -> Result<Channel> {
    let channel = open(&path).await?;
    call(Grpc::new(channel.clone()), question).await?;
    Ok(channel)
}

/// Serves every connection.
pub fn answer(answer: &Answer) -> Result<()> {
    block_on(async {
        let listener = UnixListener::bind(&answer.endpoint)?;
        let incoming = stream::unfold(listener, |listener| async {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        Server::builder()
            .add_service(Echo)
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    })
}
