//! The controllers over TLS, each under its own service account, for trying things by hand:
//! `cargo run -p controllers --example run -- <kubeconfig>`.

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let kubeconfig = PathBuf::from(std::env::args().nth(1).ok_or("which kubeconfig?")?);
    let client = client::connect(&kubeconfig, "kube-controller-manager").await?;
    let accounts =
        client::identity::service_accounts(client.clone(), &kubeconfig, "kube-controller-manager").await?;
    let config = controllers::Config {
        cluster_cidr: Some("10.244.0.0/16".parse()?),
        root_ca_pem: Some("-----BEGIN CERTIFICATE-----".into()),
        client_for: Some(accounts),
        leader_elect: true,
        ..controllers::Config::default()
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    controllers::run(client, config, shutdown).await;
    Ok(())
}
