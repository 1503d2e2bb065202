//! The gRPC health protocol (`grpc.health.v1.Health/Check`).

use std::time::Duration;

use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use super::check::{Outcome, join};
use super::http::PROBE_AGENT;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks the service at the address for its health.
pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = join(host, port);
    let seconds = timeout.as_secs();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent(PROBE_AGENT));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(e) => return Outcome::Unknown(e.to_string()),
    };
    let deadline = tokio::time::Instant::now() + timeout;
    let channel = match tokio::time::timeout_at(deadline, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        // upstream's client retries a refused connection until its time is up
        Ok(Err(_)) | Err(_) => {
            let text = "context deadline exceeded";
            return Outcome::Failure(format!(
                "timeout: failed to connect service {address:?} within {seconds}s: {text}"
            ));
        }
    };
    let mut grpc = tonic::client::Grpc::new(channel);
    let call = async {
        grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        grpc.unary(request, path, codec).await
    };
    match tokio::time::timeout_at(deadline, call).await {
        Err(_) => Outcome::Failure(format!("timeout: health rpc did not complete within {seconds}s")),
        Ok(Ok(answer)) => {
            let status = answer.into_inner().status;
            if status == SERVING {
                return Outcome::Success;
            }
            let name = usize::try_from(status)
                .ok()
                .and_then(|i| STATES.get(i))
                .map_or_else(|| status.to_string(), |name| (*name).to_owned());
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(e)) if e.code() == Code::Unimplemented => Outcome::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            e.message()
        )),
        Ok(Err(e)) => {
            // the names of codes are Go's but for this one
            let code = match e.code() {
                Code::Cancelled => "Canceled".to_owned(),
                code => format!("{code:?}"),
            };
            Outcome::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {code} desc = {}",
                e.message()
            ))
        }
    }
}
