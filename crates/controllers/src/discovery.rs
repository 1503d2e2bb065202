//! Which resources the server has, for the controllers that look after all of them.

use crate::plan::Target;
use client::Client;
use http::{Request, header::ACCEPT};
use kube::client::APIGroupDiscoveryList;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One collection, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub target: Target,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether all of these verbs are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|have| have == v))
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.target.group.is_empty() {
            self.target.version.to_string()
        } else {
            format!("{}/{}", self.target.group, self.target.version)
        }
    }
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Asks for all resources, in two requests. A group whose server does not answer is left out and named in the second
/// part of the answer.
pub async fn discover(client: &Client) -> kube::Result<(Vec<Resource>, Vec<String>)> {
    let mut found = BTreeMap::new();
    let mut stale = Vec::new();
    for path in ["/api", "/apis"] {
        let request =
            Request::get(path).header(ACCEPT, AGGREGATED).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let list: APIGroupDiscoveryList = client.request(request).await?;
        for group in list.items {
            let name = group.metadata.as_ref().and_then(|m| m.name.clone()).unwrap_or_default();
            for version in group.versions {
                let v = version.version.unwrap_or_default();
                if version.freshness.as_deref() == Some("Stale") {
                    stale.push(format!("{name}/{v}"));
                }
                for r in version.resources {
                    let plural = r.resource.unwrap_or_default();
                    // Versions come in order of preference.
                    found.entry((name.clone(), plural.clone())).or_insert_with(|| Resource {
                        target: Target {
                            group: Cow::Owned(name.clone()),
                            version: Cow::Owned(v.clone()),
                            plural: Cow::Owned(plural),
                        },
                        kind: r.response_kind.and_then(|k| k.kind).unwrap_or_default(),
                        namespaced: r.scope.as_deref() == Some("Namespaced"),
                        verbs: r.verbs,
                    });
                }
            }
        }
    }
    Ok((found.into_values().collect(), stale))
}
