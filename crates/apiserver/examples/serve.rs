//! A server on the loopback with an in-memory store, for trying things by hand:
//! `cargo run -p apiserver --example serve -- <data directory> [port]`.

use apiserver::{ApiServer, Config};
use std::path::PathBuf;
use std::time::Instant;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which data directory?")?);
    let port: u16 = arguments.next().map_or(Ok(6443), |p| p.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let server = ApiServer::start(Config::local(directory.clone(), port), store::memory::open()).await?;
    let kubeconfig = directory.join("admin.kubeconfig");
    std::fs::write(&kubeconfig, server.admin_kubeconfig(&server.url()))?;
    println!("ready after {:?}; export KUBECONFIG={}", began.elapsed(), kubeconfig.display());
    server
        .serve(listener, async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    Ok(())
}
