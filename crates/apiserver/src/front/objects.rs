//! What every cluster has from its first start: system namespaces, priority classes, RBAC's bootstrap policy,
//! the `kubernetes` service with its endpoints, and what extension API servers need to trust this one.
//! Written through the request path like anything else; at a later start only what is missing.

use super::Front;
use crate::request::{Context, RequestInfo};
use auth::bootstrap::{self, Reconcile};
use auth::{Pki, User};
use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use k8s_openapi::{Metadata, Resource};
use kinds::Object;
use meta::{ApiError, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Where the API is reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: IpAddr,
    /// Of the listener.
    pub port: u16,
    /// First address of the service range.
    pub service_ip: IpAddr,
}

impl Front {
    /// A request of this server to itself: no authorization, everything else.
    ///
    /// # Errors
    /// The refusal.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parsed = RequestInfo::parse(&method, path, query).map_err(ApiError::internal)?;
        let body = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
            .header(http::header::CONTENT_TYPE, super::respond::JSON)
            .body(super::respond::body(body))
            .map_err(ApiError::internal)?;
        let context = Context {
            info: Arc::new(parsed.info),
            user: Arc::new(User::component("system:apiserver", &[User::MASTERS])),
            agent: "kube-apiserver".into(),
        };
        let response = self.resources.handle(context, request).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.map_err(ApiError::internal)?.to_bytes();
        if code.is_success() {
            return serde_json::from_slice(&bytes).map_err(ApiError::internal);
        }
        let status: Status = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
        let reason = match code.as_u16() {
            409 if status.reason.as_deref() == Some("AlreadyExists") => Reason::AlreadyExists,
            409 => Reason::Conflict,
            404 => Reason::NotFound,
            other => Reason::Unknown(other),
        };
        Err(ApiError::new(reason, status.message.unwrap_or_default()))
    }

    /// Creates an object where it is absent; another server may have been first.
    async fn ensure(&self, collection: &str, object: Value) -> Result<(), ApiError> {
        match self.call(Method::POST, collection, Some(&object)).await {
            Err(e) if e.reason != Reason::AlreadyExists => Err(ApiError::new(
                e.reason,
                format!("creating {} in {collection}: {}", object["metadata"]["name"], e.message),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn stored(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        self.resources.lookup().get(group, plural, namespace, name)?.object().ok()
    }

    /// Brings the cluster's own objects up to date.
    ///
    /// # Errors
    /// What could not be written.
    pub async fn bootstrap(&self, endpoint: &Endpoint, pki: &Pki) -> Result<(), ApiError> {
        let missing = NAMESPACES.iter().filter(|n| self.stored("", "namespaces", "", n).is_none());
        let namespaces = missing.map(|name| {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.ensure("/api/v1/namespaces", object)
        });
        all(join_all(namespaces).await)?;
        let (rbac, rest) = tokio::join!(self.bootstrap_rbac(), async {
            let parts = tokio::join!(
                self.priority_classes(),
                self.kubernetes_service(endpoint),
                self.trust(pki),
                self.service_cidr()
            );
            all(vec![parts.0, parts.1, parts.2, parts.3])
        });
        all(vec![rbac, rest])?;
        self.health.bootstrapped.store(true, Ordering::Release);
        Ok(())
    }

    async fn bootstrap_rbac(&self) -> Result<(), ApiError> {
        let policy = bootstrap::policy();
        let results = tokio::join!(
            join_all(policy.cluster_roles.iter().map(|o| self.reconcile(o))),
            join_all(policy.cluster_role_bindings.iter().map(|o| self.reconcile(o))),
            join_all(policy.roles.iter().map(|o| self.reconcile(o))),
            join_all(policy.role_bindings.iter().map(|o| self.reconcile(o))),
        );
        all([results.0, results.1, results.2, results.3].concat())
    }

    async fn reconcile<T>(&self, wanted: &T) -> Result<(), ApiError>
    where
        T: Reconcile + Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + 'static,
    {
        let meta = wanted.metadata();
        let name = meta.name.clone().unwrap_or_default();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let plural = T::URL_PATH_SEGMENT;
        let collection = match namespace.as_str() {
            "" => format!("/apis/{}/{}/{plural}", T::GROUP, T::VERSION),
            ns => format!("/apis/{}/{}/namespaces/{ns}/{plural}", T::GROUP, T::VERSION),
        };
        let value = |o: &T| serde_json::to_value(o).map_err(ApiError::internal);
        match self.stored(T::GROUP, plural, &namespace, &name) {
            None => {
                self.ensure(&collection, value(wanted)?).await?;
                // Who asks as soon as the server is ready must not meet an index that has yet to hear of it.
                wanted.index(&mut self.authorizer.rbac.write());
                Ok(())
            }
            Some(stored) => {
                let next = stored.downcast::<T>().and_then(|s| wanted.completed(s));
                let Some(next) = next else { return Ok(()) };
                let put = self.call(Method::PUT, &format!("{collection}/{name}"), Some(&value(&next)?)).await;
                // Another server brought it up to date.
                put.map(drop).or_else(|e| if e.reason == Reason::Conflict { Ok(()) } else { Err(e) })
            }
        }
    }

    async fn priority_classes(&self) -> Result<(), ApiError> {
        let group = "scheduling.k8s.io";
        if !self.resources.serves(group, "v1", "priorityclasses") {
            return Ok(());
        }
        let classes = [
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
            (
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to another node if \
                 necessary.",
            ),
        ];
        for (name, value, description) in classes {
            if self.stored(group, "priorityclasses", "", name).is_none() {
                let object = json!({
                    "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                    "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
                });
                self.ensure("/apis/scheduling.k8s.io/v1/priorityclasses", object).await?;
            }
        }
        Ok(())
    }

    /// The range that cluster IPs come from, as an object: others look there.
    async fn service_cidr(&self) -> Result<(), ApiError> {
        let (group, name) = ("networking.k8s.io", "kubernetes");
        if !self.resources.serves(group, "v1", "servicecidrs") {
            return Ok(());
        }
        let collection = "/apis/networking.k8s.io/v1/servicecidrs";
        if self.stored(group, "servicecidrs", "", name).is_none() {
            let object = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
                "spec": {"cidrs": self.resources.service_ranges()},
            });
            self.ensure(collection, object).await?;
        }
        let path = format!("{collection}/{name}");
        let mut stored = self.call(Method::GET, &path, None).await?;
        if stored["status"]["conditions"].as_array().is_some_and(|c| !c.is_empty()) {
            return Ok(());
        }
        stored["status"] = json!({"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": (self.now)().to_string(),
            "message": "Kubernetes default Service CIDR is ready",
        }]});
        let put = self.call(Method::PUT, &format!("{path}/status"), Some(&stored)).await;
        // Another server brought it up to date.
        put.map(drop).or_else(|e| if e.reason == Reason::Conflict { Ok(()) } else { Err(e) })
    }

    /// The service `kubernetes`, whose endpoints are this server.
    async fn kubernetes_service(&self, endpoint: &Endpoint) -> Result<(), ApiError> {
        if self.stored("", "services", "default", "kubernetes").is_none() {
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "name": "kubernetes", "namespace": "default",
                    "labels": {"component": "apiserver", "provider": "kubernetes"},
                },
                "spec": {
                    "clusterIP": endpoint.service_ip.to_string(), "type": "ClusterIP", "sessionAffinity": "None",
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": endpoint.port}],
                },
            });
            self.ensure("/api/v1/namespaces/default/services", object).await?;
        }
        if endpoint.address.is_loopback() {
            tracing::warn!("the advertised address is a loopback: pods cannot reach the service kubernetes");
            return Ok(());
        }
        let address = endpoint.address.to_string();
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{
                "addresses": [{"ip": address}],
                "ports": [{"name": "https", "port": endpoint.port, "protocol": "TCP"}],
            }],
        });
        let family = if endpoint.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": family,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": endpoint.port, "protocol": "TCP"}],
        });
        self.keep("", "endpoints", "/api/v1/namespaces/default/endpoints", endpoints, &["subsets"]).await?;
        let collection = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.keep("discovery.k8s.io", "endpointslices", collection, slice, &["endpoints", "ports"]).await
    }

    /// What extension API servers read to authenticate requests as this server does.
    async fn trust(&self, pki: &Pki) -> Result<(), ApiError> {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {
                "client-ca-file": pki.ca.identity.certificate_pem,
                "requestheader-allowed-names": "[\"front-proxy-client\"]",
                "requestheader-client-ca-file": pki.front_proxy_ca.identity.certificate_pem,
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
                "requestheader-username-headers": "[\"X-Remote-User\"]",
            },
        });
        self.keep("", "configmaps", "/api/v1/namespaces/kube-system/configmaps", object, &["data"]).await
    }

    /// Holds `fields` of an object to these values, creating it where it is absent.
    async fn keep(
        &self,
        group: &str,
        plural: &str,
        collection: &str,
        object: Value,
        fields: &[&str],
    ) -> Result<(), ApiError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let Some(stored) = self.stored(group, plural, &namespace, &name) else {
            return self.ensure(collection, object).await;
        };
        let mut next = stored.to_value();
        if fields.iter().all(|f| next[*f] == object[*f]) {
            return Ok(());
        }
        for field in fields {
            next[*field] = object[*field].clone();
        }
        self.call(Method::PUT, &format!("{collection}/{name}"), Some(&next)).await.map(drop)
    }
}

fn all(results: Vec<Result<(), ApiError>>) -> Result<(), ApiError> {
    results.into_iter().collect()
}
