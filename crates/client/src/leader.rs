//! Leader election over a Lease, with client-go's semantics: a record is trusted for the lease duration since it
//! was last seen to change on the own clock, never by comparing clocks of machines.
//!
//! [`decide`] is pure; [`Elector`] runs it.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use meta::Time;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Upstream's defaults of `--leader-elect-lease-duration`, `-renew-deadline` and `-retry-period`.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// A retry is put off by up to this share of the period, at random (client-go's JitterFactor).
const JITTER: f64 = 1.2;

#[derive(Clone, Debug)]
pub struct Config {
    pub namespace: String,
    pub name: String,
    /// Unique to this candidate: host name and a random suffix.
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Config {
    /// A lease in `kube-system` with upstream's times.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: LEASE_DURATION,
            renew_deadline: RENEW_DEADLINE,
            retry_period: RETRY_PERIOD,
        }
    }
}

/// A lease and when this candidate first saw it in this state.
#[derive(Clone, Debug)]
pub struct Observed {
    pub lease: Lease,
    pub since: Instant,
}

/// What to write, if anything.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// No lease exists: create this one.
    Create(Lease),
    /// Take over or renew: replace the lease with this one, which carries the observed resourceVersion.
    Update(Lease),
    /// Another candidate holds it.
    Wait { holder: String },
}

/// What a candidate does about the lease it observed. `now` for durations, `time` for what is written.
pub fn decide(observed: Option<&Observed>, config: &Config, now: Instant, time: Time) -> Decision {
    let stamp = Some(MicroTime(time));
    let seconds = Some(config.lease_duration.as_secs().try_into().unwrap_or(i32::MAX));
    let Some(observed) = observed else {
        return Decision::Create(Lease {
            metadata: ObjectMeta {
                namespace: Some(config.namespace.clone()),
                name: Some(config.name.clone()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(config.identity.clone()),
                lease_duration_seconds: seconds,
                acquire_time: stamp.clone(),
                renew_time: stamp,
                lease_transitions: Some(0),
                ..Default::default()
            }),
        });
    };
    let old = observed.lease.spec.clone().unwrap_or_default();
    let holder = old.holder_identity.clone().unwrap_or_default();
    let mine = holder == config.identity;
    let valid = now < observed.since + config.lease_duration;
    if !holder.is_empty() && !mine && valid {
        return Decision::Wait { holder };
    }
    let mut lease = observed.lease.clone();
    let transitions = old.lease_transitions.unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: seconds,
        acquire_time: if mine { old.acquire_time.clone() } else { stamp.clone() },
        renew_time: stamp,
        lease_transitions: Some(if mine { transitions } else { transitions + 1 }),
        ..old
    });
    Decision::Update(lease)
}

/// A candidate.
pub struct Elector {
    api: Api<Lease>,
    config: Config,
    observed: Option<Observed>,
}

impl Elector {
    pub fn new(client: Client, config: Config) -> Self {
        Self { api: Api::namespaced(client, &config.namespace), config, observed: None }
    }

    /// Waits for the lease, then runs `lead` with a token that is cancelled when the lease is lost or `shutdown` is
    /// asked for. Returns after `lead` has ended: true if it ended by itself or by the shutdown, false if the lease
    /// was lost. Gives the lease up where it ends by shutdown.
    pub async fn run<F, Fut>(mut self, shutdown: CancellationToken, lead: F) -> bool
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        loop {
            if self.attempt().await {
                break;
            }
            let pause = self.config.retry_period.mul_f64(1.0 + rand::random::<f64>() * JITTER);
            tokio::select! {
                () = shutdown.cancelled() => return true,
                () = tokio::time::sleep(pause) => {}
            }
        }
        info!(lease = self.config.name, identity = self.config.identity, "became leader");
        let leading = shutdown.child_token();
        let mut lost = false;
        {
            let work = lead(leading.clone());
            tokio::pin!(work);
            let mut renewed = tokio::time::Instant::now();
            let mut ended = false;
            while !ended {
                let deadline = renewed + self.config.renew_deadline;
                tokio::select! {
                    () = &mut work => ended = true,
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(self.config.retry_period) => {
                        if tokio::time::timeout_at(deadline, self.attempt()).await.unwrap_or(false) {
                            renewed = tokio::time::Instant::now();
                        } else if tokio::time::Instant::now() >= deadline || self.held_by_another() {
                            warn!(lease = self.config.name, "failed to renew the lease in time; no longer leader");
                            lost = true;
                            break;
                        }
                    }
                }
            }
            leading.cancel();
            if !ended {
                work.await;
            }
        }
        if !lost {
            self.release().await;
        }
        !lost
    }

    fn held_by_another(&self) -> bool {
        let holder = self.observed.as_ref().and_then(|o| o.lease.spec.as_ref()?.holder_identity.clone());
        holder.is_some_and(|h| !h.is_empty() && h != self.config.identity)
    }

    /// One try to take or renew the lease.
    async fn attempt(&mut self) -> bool {
        match self.api.get_opt(&self.config.name).await {
            Ok(found) => self.observe(found),
            Err(e) => {
                warn!(lease = self.config.name, "reading the lease: {e}");
                return false;
            }
        }
        let now = tokio::time::Instant::now().into_std();
        let written = match decide(self.observed.as_ref(), &self.config, now, crate::now()) {
            Decision::Wait { .. } => return false,
            Decision::Create(lease) => self.api.create(&PostParams::default(), &lease).await,
            Decision::Update(lease) => {
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.observe(Some(lease));
                true
            }
            Err(e) => {
                warn!(lease = self.config.name, "writing the lease: {e}");
                false
            }
        }
    }

    fn observe(&mut self, found: Option<Lease>) {
        let same = match (&self.observed, &found) {
            (Some(o), Some(f)) => o.lease.spec == f.spec,
            _ => false,
        };
        let since = match &self.observed {
            Some(o) if same => o.since,
            _ => tokio::time::Instant::now().into_std(),
        };
        self.observed = found.map(|lease| Observed { lease, since });
    }

    /// Lets another candidate take over at once.
    async fn release(&mut self) {
        let Some(mut lease) = self.observed.take().map(|o| o.lease) else { return };
        if lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) != Some(&self.config.identity) {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            let stamp = Some(MicroTime(crate::now()));
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = stamp.clone();
            spec.acquire_time = stamp;
        }
        let params = PostParams::default();
        let write = self.api.replace(&self.config.name, &params, &lease);
        match tokio::time::timeout(self.config.retry_period, write).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => warn!(lease = self.config.name, "giving the lease up: {e}"),
            Err(_) => warn!(lease = self.config.name, "giving the lease up: no answer in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, since: Instant) -> Observed {
        let spec =
            LeaseSpec { holder_identity: Some(by.into()), lease_transitions: Some(3), ..Default::default() };
        Observed { lease: Lease { spec: Some(spec), ..Default::default() }, since }
    }

    /// Who holds the lease after the decision, how many transitions it then counts; or `wait`.
    fn check(observed: Option<(&str, u64)>, expect: &str) {
        let now = Instant::now() + Duration::from_secs(100);
        let observed = observed.map(|(by, age)| held(by, now - Duration::from_secs(age)));
        let config = Config::new("x", "me");
        let got = match decide(observed.as_ref(), &config, now, Time::UNIX_EPOCH) {
            Decision::Wait { holder } => format!("wait for {holder}"),
            Decision::Create(l) => format!("create {}", l.spec.unwrap().holder_identity.unwrap()),
            Decision::Update(l) => {
                let s = l.spec.unwrap();
                format!("update {} {}", s.holder_identity.unwrap(), s.lease_transitions.unwrap())
            }
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn a_lease_is_taken_only_when_free_own_or_not_renewed() {
        check(None, "create me");
        check(Some(("", 0)), "update me 4");
        check(Some(("me", 1)), "update me 3");
        check(Some(("other", 14)), "wait for other");
        check(Some(("other", 15)), "update me 4");
    }
}
