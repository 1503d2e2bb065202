//! `pods/eviction`: a delete that respects disruption budgets.

use super::binding::set_condition;
use crate::cache::{Entry, When};
use crate::negotiate::content_encoding;
use crate::options::{WriteOptions, is_dry_run};
use crate::request::{Body, Response};
use crate::resource::Call;
use crate::resource::admission_hook::Operation;
use crate::resource::body;
use crate::resource::respond::created;
use crate::resource::update::UpdateRules;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, StatusCause, Time as MetaTime};
use kinds::Object;
use kinds::pod_disruption_budget::set_disruption_allowed;
use meta::{ApiError, GroupResource, GroupVersionKind, LabelSelector, Reason};

const EVICTION: GroupVersionKind = GroupVersionKind::of("policy", "v1", "Eviction");
/// Evictions that the budget's controller has not confirmed yet, at most.
const MAX_DISRUPTED_PODS: usize = 2000;
/// Times an eviction is begun anew because the pod changed meanwhile.
const ATTEMPTS: usize = 20;
/// After how long a client may ask again where the budget's controller is behind.
const RETRY_SECONDS: i32 = 10;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn too_many(cause: String, retry_seconds: i32) -> ApiError {
    let mut error = ApiError::new(Reason::TooManyRequests, VIOLATES);
    if retry_seconds > 0 {
        error = error.retry_after(retry_seconds);
    }
    let cause = StatusCause { reason: Some("DisruptionBudget".into()), message: Some(cause), field: None };
    error.details.get_or_insert_default().causes = Some(vec![cause]);
    error
}

fn being_processed(budget: &str) -> ApiError {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    too_many(cause, RETRY_SECONDS)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What a budget has to do with a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Concern {
    /// Ended or leaving: no budget counts it.
    None,
    /// Not yet running: no budget counts it, as long as it does not start.
    WhilePending,
    Budget,
}

fn concern(pod: &Pod) -> Concern {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
    match phase {
        _ if pod.metadata.deletion_timestamp.is_some() => Concern::None,
        "Succeeded" | "Failed" => Concern::None,
        "Pending" => Concern::WhilePending,
        _ => Concern::Budget,
    }
}

/// An unhealthy pod may go without using the budget up.
fn unhealthy_may_go(pod: &Pod, budget: &PodDisruptionBudget) -> bool {
    if is_ready(pod) {
        return false;
    }
    let policy = budget.spec.as_ref().and_then(|s| s.unhealthy_pod_eviction_policy.as_deref());
    let healthy = budget.status.as_ref().is_some_and(|s| {
        let (current, desired) = (s.current_healthy.unwrap_or(0), s.desired_healthy.unwrap_or(0));
        current >= desired && desired > 0
    });
    policy == Some("AlwaysAllow") || healthy
}

/// Takes one disruption off the budget.
fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: meta::Time) -> Result<(), ApiError> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    let about = GroupResource::of("policy", "poddisruptionbudget");
    if status.observed_generation.unwrap_or(0) < generation {
        return Err(being_processed(&name));
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return Err(ApiError::forbidden(&about, &name, "pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().is_some_and(|p| p.len() > MAX_DISRUPTED_PODS) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(&about, &name, why));
    }
    if allowed == 0 {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionAllowed");
        let refused = condition.filter(|c| c.status == "False" && !c.message.is_empty());
        let (healthy, wanted) = (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
        let cause = match refused {
            Some(c) if c.reason == "SyncFailed" => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                c.message
            ),
            _ if healthy <= wanted => {
                format!(
                    "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
                )
            }
            Some(c) => format!(
                "The disruption budget {name} does not allow evicting pods currently ({}): {}",
                c.reason, c.message
            ),
            None => format!("The disruption budget {name} does not allow evicting pods currently"),
        };
        return Err(too_many(cause, 0));
    }
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        set_disruption_allowed(status, now);
    }
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), MetaTime(now));
    Ok(())
}

/// Why an eviction did not happen.
enum Refused {
    /// The pod changed meanwhile: it may be looked at again.
    Changed(ApiError),
    ForGood(ApiError),
}

impl Refused {
    fn of_change(e: ApiError) -> Self {
        if e.reason == Reason::Conflict { Self::Changed(e) } else { Self::ForGood(e) }
    }
}

impl From<ApiError> for Refused {
    fn from(e: ApiError) -> Self {
        Self::ForGood(e)
    }
}

impl Call<'_> {
    fn budgets(&self, pod: &Pod) -> Result<Vec<PodDisruptionBudget>, ApiError> {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let mut matching = Vec::new();
        for entry in self.resources.lookup.list("policy", "poddisruptionbudgets", self.namespace) {
            let object = entry.object()?;
            let Some(budget) = object.downcast::<PodDisruptionBudget>() else { continue };
            let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
            let selector = selector.map_or_else(|| Ok(LabelSelector::nothing()), LabelSelector::from_object);
            if selector.is_ok_and(|s| s.matches(&labels)) {
                matching.push(budget.clone());
            }
        }
        Ok(matching)
    }

    pub(in crate::resource) async fn eviction(&self, body: Body) -> Result<Response, ApiError> {
        let options = WriteOptions::parse(self.query, "CreateOptions", false)?;
        let encoding = content_encoding(&self.parts.headers)?;
        let json = body::to_json(encoding, body::read(body).await?)?;
        let eviction: Eviction = body::plain(&EVICTION, &json)?;
        if eviction.metadata.name.as_deref() != Some(self.name) {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut delete = eviction.delete_options.clone().unwrap_or_default();
        if options.dry_run {
            delete.dry_run = Some(vec!["All".into()]);
        }
        let object: Object = Box::new(eviction);
        self.validate(Operation::Create, self.name, is_dry_run(&delete), None, Some(&object)).await?;
        let versioned = delete.preconditions.as_ref().is_some_and(|p| p.resource_version.is_some());
        let mut attempts = if versioned { 1 } else { ATTEMPTS };
        loop {
            attempts -= 1;
            match self.evict_once(&delete, versioned).await {
                Err(Refused::Changed(_)) if attempts > 0 => {}
                Err(Refused::Changed(e) | Refused::ForGood(e)) => return Err(e),
                Ok(()) => break,
            }
        }
        Ok(created(self.accepted))
    }

    /// `versioned`: the client says itself which version of the pod it means.
    async fn evict_once(&self, delete: &DeleteOptions, versioned: bool) -> Result<(), Refused> {
        let entry = self.read(When::Newest).await?.ok_or_else(|| self.not_found())?;
        let object = entry.object()?;
        let Some(pod) = object.downcast::<Pod>() else {
            return Err(ApiError::internal("a pod is expected").into());
        };
        // The pod must not have become healthy since it was looked at.
        let of_version = || {
            let mut delete = delete.clone();
            let preconditions = delete.preconditions.get_or_insert_default();
            preconditions.resource_version.clone_from(&pod.metadata.resource_version);
            delete
        };
        match concern(pod) {
            Concern::None => return self.evict(delete).await.map_err(Refused::of_change),
            Concern::WhilePending if versioned => return Ok(self.evict(delete).await?),
            Concern::WhilePending => return self.evict(&of_version()).await.map_err(Refused::of_change),
            Concern::Budget => {}
        }
        let budgets = self.budgets(pod)?;
        if budgets.len() > 1 {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(Reason::Unknown(500), why).into());
        }
        let Some(budget) = budgets.first() else { return Ok(self.evict(delete).await?) };
        if !unhealthy_may_go(pod, budget) {
            self.use_budget(budget, delete).await?;
            return Ok(self.evict(delete).await?);
        }
        self.evict(&of_version()).await.map_err(|e| {
            let stale = e.reason == Reason::Conflict && !versioned;
            let name = budget.metadata.name.as_deref().unwrap_or("");
            Refused::ForGood(if stale { being_processed(name) } else { e })
        })
    }

    async fn use_budget(&self, budget: &PodDisruptionBudget, delete: &DeleteOptions) -> Result<(), ApiError> {
        let Some(target) = self.resources.target("policy", "v1", "poddisruptionbudgets") else {
            return Ok(());
        };
        let name = budget.metadata.name.clone().unwrap_or_default();
        let call = self.on(target, self.namespace, &name, "");
        let mut make = |old: Option<&Object>, _: Option<&Entry>| {
            let Some(budget) = old.and_then(|o| o.downcast::<PodDisruptionBudget>()) else {
                return Err(ApiError::not_found(&target.gr, &name));
            };
            let mut budget = budget.clone();
            decrement(&mut budget, self.name, self.now)?;
            Ok(Box::new(budget) as Object)
        };
        let how = UpdateRules { dry_run: is_dry_run(delete), force_create: false, uid: None, internal: true };
        call.change(&mut make, &how).await.map(drop)
    }

    async fn evict(&self, delete: &DeleteOptions) -> Result<(), ApiError> {
        let call = self.on(self.target, self.namespace, self.name, "");
        let mut delete = delete.clone();
        if !is_dry_run(&delete) {
            let wanted = delete.preconditions.clone().unwrap_or_default();
            let mut make = |old: Option<&Object>, _: Option<&Entry>| {
                let Some(pod) = old.and_then(|o| o.downcast::<Pod>()) else { return Err(self.not_found()) };
                let about = GroupResource::of("", "Pod");
                let found = pod.metadata.resource_version.as_deref().unwrap_or("");
                if let Some(version) =
                    wanted.resource_version.as_deref().filter(|v| !v.is_empty() && *v != found)
                {
                    return Err(ApiError::conflict(
                        &about,
                        self.name,
                        format!(
                            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({found}). The object might have been modified"
                        ),
                    ));
                }
                let found = pod.metadata.uid.as_deref().unwrap_or("");
                if let Some(uid) = wanted.uid.as_deref().filter(|u| !u.is_empty() && *u != found) {
                    return Err(ApiError::conflict(
                        &about,
                        self.name,
                        format!(
                            "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
                        ),
                    ));
                }
                let mut pod = pod.clone();
                let evicted = PodCondition {
                    type_: "DisruptionTarget".into(),
                    status: "True".into(),
                    reason: Some("EvictionByEvictionAPI".into()),
                    message: Some("Eviction API: evicting".into()),
                    ..PodCondition::default()
                };
                set_condition(&mut pod, evicted, self.now);
                Ok(Box::new(pod) as Object)
            };
            let how = UpdateRules { dry_run: false, force_create: false, uid: None, internal: true };
            let changed = call.change(&mut make, &how).await?;
            if let Some(preconditions) =
                delete.preconditions.as_mut().filter(|p| p.resource_version.is_some())
            {
                preconditions.resource_version = Some(changed.entry.revision.to_string());
            }
        }
        call.delete_named(self.name, &delete).await.map(drop)
    }
}
