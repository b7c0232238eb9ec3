//! etcd: leases kept alive over one gRPC stream (etcd.io/docs, `Lease.LeaseKeepAlive`), on tmpfs,
//! where `fsync` costs nothing.

use super::{Process, Server, connect, free_port, version};
use prost::Message;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Streaming, client::Grpc};
use tonic_prost::ProstCodec;

/// `LeaseGrantRequest` of `etcdserverpb/rpc.proto`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Grant {
    #[prost(int64, tag = "1")]
    ttl: i64,
    #[prost(int64, tag = "2")]
    id: i64,
}

/// `LeaseGrantResponse`: its header is left out.
#[derive(Clone, PartialEq, Eq, Message)]
struct Granted {
    #[prost(int64, tag = "2")]
    id: i64,
}

/// `LeaseKeepAliveRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
struct KeepAlive {
    #[prost(int64, tag = "1")]
    id: i64,
}

/// `LeaseKeepAliveResponse`: its header is left out.
#[derive(Clone, PartialEq, Eq, Message)]
struct KeptAlive {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// Leases that beat.
const LEASES: i64 = 1000;

struct Etcd {
    process: Process,
    version: String,
    data: PathBuf,
    runtime: Runtime,
    stream: Option<(mpsc::Sender<KeepAlive>, Streaming<KeptAlive>)>,
    at: i64,
}

pub(super) fn start(cpu: usize) -> Result<Box<dyn Server>, String> {
    Ok(Box::new(Etcd::start(cpu)?))
}

impl Etcd {
    fn start(cpu: usize) -> Result<Self, String> {
        const INSTALL: &str = "apt-get install etcd-server";
        let version = version("etcd", "--version", INSTALL)?.replace("Version: ", "");
        let (port, peer) = (free_port()?, free_port()?);
        let data = PathBuf::from(format!("/dev/shm/heartline-etcd-{}", std::process::id()));
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peers) = (url(port), url(peer));
        let arguments = [
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        let process =
            super::start(cpu, "etcd", &arguments.each_ref().map(String::as_str), INSTALL)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let mut etcd = Self { process, version, data, runtime, stream: None, at: 0 };
        connect(port)?;
        etcd.open(client)?;
        Ok(etcd)
    }

    /// Waits for a leader, makes the leases, and opens the stream.
    fn open(&mut self, url: String) -> Result<(), String> {
        let stream = self.runtime.block_on(async {
            let channel = Channel::from_shared(url)?.connect().await?;
            let mut client = Grpc::new(channel);
            let deadline = Instant::now() + Duration::from_secs(20);
            for id in 1..=LEASES {
                loop {
                    client.ready().await?;
                    let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseGrant");
                    let grant = Request::new(Grant { ttl: 600, id });
                    let codec = ProstCodec::<Grant, Granted>::default();
                    match client.unary::<_, Granted, _>(grant, path, codec).await {
                        Ok(_) => break,
                        Err(status) if Instant::now() > deadline => return Err(status.into()),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
            let (sender, receiver) = mpsc::channel(64);
            client.ready().await?;
            let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
            let requests = Request::new(ReceiverStream::new(receiver));
            // The answer's head comes with the first message.
            sender.send(KeepAlive { id: 1 }).await?;
            let mut answers = client
                .streaming(requests, path, ProstCodec::<KeepAlive, KeptAlive>::default())
                .await?
                .into_inner();
            answers.message().await?;
            Ok::<_, Box<dyn std::error::Error>>((sender, answers))
        });
        self.stream = Some(stream.map_err(|error| format!("etcd: {error}"))?);
        Ok(())
    }
}

impl Server for Etcd {
    fn name(&self) -> &str {
        &self.version
    }

    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String> {
        let (sender, answers) = self.stream.as_mut().ok_or("no stream")?;
        let (begin, mut done) = (Instant::now(), 0);
        let at = &mut self.at;
        let result = self.runtime.block_on(async {
            while begin.elapsed() < time {
                for _ in 0..batch {
                    *at = *at % LEASES + 1;
                    sender.send(KeepAlive { id: *at }).await?;
                }
                for _ in 0..batch {
                    let answer = answers.message().await?.ok_or("the stream has ended")?;
                    if answer.ttl <= 0 {
                        return Err("a lease has ended".into());
                    }
                    done += 1;
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        });
        result.map(|()| done).map_err(|error| format!("etcd: {error}"))
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}
