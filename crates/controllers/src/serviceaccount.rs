//! What every namespace has: the service account `default`, and the certificate that the API server is known by.

use crate::controller::{Controller, Watches};
use crate::metrics::{Buckets, Metric};
use crate::plan::{ALREADY_EXISTS, Op, Outcome, Plan};
use crate::world::World;
use client::Key;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::Time;
use std::collections::BTreeMap;

const DEFAULT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

/// A namespace that still takes objects.
fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

fn named(namespace: &Key, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.name.to_string()), name: Some(name.into()), ..Default::default() }
}

/// Keys are namespaces.
pub struct ServiceAccounts;

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";
    const QUEUE: &'static str = "serviceaccount";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.namespaces).on(
            |w| &w.service_accounts,
            |d, _| match d.new {
                None => vec![Key::cluster(&d.key.namespace)],
                Some(_) => Vec::new(),
            },
        );
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        if !world.namespaces.get(key).is_some_and(|n| is_active(&n)) {
            return Plan::idle("the namespace is gone or going");
        }
        if world.service_accounts.find(&key.name, DEFAULT).is_some() {
            return Plan::idle("the service account exists");
        }
        let mut plan = Plan::default();
        let account = ServiceAccount { metadata: named(key, DEFAULT), ..Default::default() };
        plan.op(Op::create(&account).tolerating(&[ALREADY_EXISTS]));
        plan
    }
}

static SYNCS: Metric = Metric::counter(
    "root_ca_cert_publisher_sync_total",
    &["code"],
    "Number of namespace syncs happened in root ca cert publisher.",
);
static SYNC_SECONDS: Metric = Metric::histogram(
    "root_ca_cert_publisher_sync_duration_seconds",
    &["code"],
    Buckets::Exponential { first: 0.001, factor: 2.0, count: 15 },
    "Number of namespace syncs happened in root ca cert publisher.",
);

/// Keys are namespaces.
pub struct RootCa {
    /// PEM.
    pub certificate: String,
}

impl Controller for RootCa {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";
    const QUEUE: &'static str = "root_ca_cert_publisher";
    const METRICS: &'static [&'static Metric] = &[&SYNCS, &SYNC_SECONDS];

    fn watches(w: &mut Watches) {
        w.own(|w| &w.namespaces).on(|w| &w.config_maps, |d, _| vec![Key::cluster(&d.key.namespace)]);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let mut plan = self.publish(key, world);
        plan.measure = Some(Box::new(|outcome: &Outcome<'_>| {
            let code = outcome.failure.map_or(200, |f| if f.code == 0 { 500 } else { f.code }).to_string();
            vec![SYNCS.one([&code]), SYNC_SECONDS.of(outcome.took.as_secs_f64(), [&code])]
        }));
        plan
    }
}

impl RootCa {
    fn publish(&self, key: &Key, world: &World) -> Plan {
        if !world.namespaces.get(key).is_some_and(|n| is_active(&n)) {
            return Plan::idle("the namespace is gone or going");
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.certificate.clone())]);
        let annotation = ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
        let mut plan = Plan::default();
        match world.config_maps.find(&key.name, ROOT_CA) {
            None => {
                let mut metadata = named(key, ROOT_CA);
                metadata.annotations = Some(BTreeMap::from([annotation]));
                let map = ConfigMap { metadata, data: Some(data), ..Default::default() };
                plan.op(Op::create(&map).tolerating(&[ALREADY_EXISTS]));
            }
            Some(old) => {
                let described = old.metadata.annotations.as_ref().and_then(|a| a.get(&annotation.0))
                    == Some(&annotation.1);
                if old.data.as_ref() == Some(&data) && described {
                    return Plan::idle("the certificate is published");
                }
                let mut new = (*old).clone();
                new.data = Some(data);
                new.metadata.annotations.get_or_insert_default().extend([annotation]);
                plan.op(Op::replace(&new));
            }
        }
        plan
    }
}
