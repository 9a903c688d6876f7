//! tarpc over a Unix socket, with bincode.

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context as Case, Figures, Other, prepared};
use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context};

use crate::tasks::{block_on, measure as measure_tasks};

#[tarpc::service]
trait Echo {
    async fn echo(bytes: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: context::Context, bytes: ByteBuf) -> ByteBuf {
        bytes
    }
}

/// Calls.
pub fn measure(case: &Case) -> Result<Figures> {
    let (path, text) = prepared(case);
    block_on(async {
        let mut listener = unix::listen(&path, Bincode::default).await?;
        let other = Other::start(&case.spec, &text)?;
        let transport = listener
            .next()
            .await
            .ok_or_else(|| anyhow::anyhow!("nobody came"))??;
        let client = EchoClient::new(client::Config::default(), transport).spawn();
        let question = ByteBuf::from(vec![7; case.spec.size]);
        measure_tasks(case, &other, || {
            let (client, question) = (client.clone(), question.clone());
            move || {
                let (client, question) = (client.clone(), question.clone());
                async move {
                    let length = question.len();
                    let reply = client.echo(context::current(), question).await?;
                    ensure!(reply.len() == length, "a reply too short");
                    Ok(())
                }
            }
        })
        .await
    })
}

/// Serves the connection.
pub fn answer(answer: &Answer) -> Result<()> {
    block_on(async {
        let transport = unix::connect(&answer.endpoint, Bincode::default).await?;
        BaseChannel::with_defaults(transport)
            .execute(Server.serve())
            .for_each(|request| async {
                tokio::spawn(request);
            })
            .await;
        Ok(())
    })
}
