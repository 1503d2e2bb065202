//! What is to be done about the members: to create, correct, replace and delete them, in order where order is asked for.

use super::claims::{Owned, Policy, claims};
use super::{Members, identity};
use crate::history::{self, HASH_LABEL};
use crate::plan::{ALREADY_EXISTS, Mode, Op, Plan};
use crate::pods::{is_ready, is_terminal, phase};
use k8s_openapi::api::apps::v1::StatefulSetStatus;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A member of the set.
pub(super) struct Member {
    pub pod: Arc<Pod>,
    pub ordinal: i32,
    /// Whether the pod is there already.
    pub exists: bool,
}

impl Member {
    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or("")
    }

    fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    fn is_running_and_ready(&self) -> bool {
        phase(&self.pod) == "Running" && is_ready(&self.pod)
    }
}

/// Operations by what must come first.
#[derive(Default)]
pub(super) struct Work {
    claims: Vec<Op>,
    corrections: Vec<Op>,
    replacements: Vec<Op>,
    creations: Vec<Op>,
    deletions: Vec<Op>,
    /// Why to look again although nothing may change.
    pub retry: Option<String>,
}

impl Work {
    pub fn steps(&mut self) -> Vec<(Vec<Op>, Mode)> {
        let take = std::mem::take;
        let mut steps = vec![(take(&mut self.claims), Mode::SlowStart)];
        steps.extend(take(&mut self.corrections).into_iter().map(|op| (vec![op], Mode::InOrder)));
        steps.extend([
            (take(&mut self.replacements), Mode::Parallel),
            (take(&mut self.creations), Mode::SlowStart),
            (take(&mut self.deletions), Mode::SlowStart),
        ]);
        steps
    }
}

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());
const STOP: ControlFlow<()> = ControlFlow::Break(());

impl Members<'_> {
    pub(super) fn work(
        &self,
        pods: &[Arc<Pod>],
        status: &mut StatefulSetStatus,
        work: &mut Work,
        plan: &mut Plan,
    ) {
        let (wanted, condemned) = self.sort_out(pods);
        for member in &wanted {
            if self.keep(member, work, plan).is_break() && self.is_ordered() || work.retry.is_some() {
                return;
            }
        }
        for member in &condemned {
            self.correct_claims(member, work, plan);
        }
        let unavailable = |m: &&Member| !self.is_available(&m.pod) || m.is_terminating();
        let first = wanted.iter().find(unavailable).or_else(|| condemned.iter().rev().find(unavailable));
        let first = first.map(Member::name);
        for member in &condemned {
            if self.dismiss(member, first, work, plan).is_break() && self.is_ordered() {
                return;
            }
        }
        if self.is_rolling() {
            self.roll(&wanted, status, work, plan);
        }
    }

    /// The members the set wants, in order, and those it has too many, the last first.
    fn sort_out(&self, pods: &[Arc<Pod>]) -> (Vec<Member>, Vec<Member>) {
        let existing = |pod: &Arc<Pod>| {
            let ordinal = identity::ordinal(pod)?;
            Some(Member { pod: pod.clone(), ordinal, exists: true })
        };
        let (mut wanted, mut condemned): (Vec<_>, Vec<_>) =
            pods.iter().filter_map(existing).partition(|m| self.in_range(m.ordinal));
        for ordinal in self.start()..self.start().saturating_add(self.replicas()) {
            if !wanted.iter().any(|m| m.ordinal == ordinal) {
                wanted.push(self.member(ordinal));
            }
        }
        wanted.sort_by_key(|m| m.ordinal);
        condemned.sort_by_key(|m| std::cmp::Reverse(m.ordinal));
        (wanted, condemned)
    }

    /// Creates a member, replaces one that ended, corrects one that runs; stops where those behind it must wait.
    fn keep(&self, member: &Member, work: &mut Work, plan: &mut Plan) -> ControlFlow<()> {
        let name = member.name();
        // Whatever its exit code: a member runs forever.
        if member.exists && is_terminal(&member.pod) {
            if !member.is_terminating() {
                work.replacements.push(self.deletion(member));
            }
            plan.because(format!("{name} has ended and is replaced once it is gone"));
            return STOP;
        }
        if !member.exists {
            if self.claims_are_former(member) {
                plan.because(format!("{name} waits for the claims of its predecessor to go"));
                return STOP;
            }
            if self.claim(member, true, work, plan).is_continue() {
                work.creations.push(self.creation(member));
            }
            return if self.is_ordered() { STOP } else { GO_ON };
        }
        if phase(&member.pod) == "Pending" {
            let _ = self.claim(member, false, work, plan);
        }
        if self.is_ordered() {
            let what = match (member.is_running_and_ready(), self.is_available(&member.pod)) {
                _ if member.is_terminating() => Some("gone"),
                (false, _) => Some("running and ready"),
                (true, false) => Some("available"),
                (true, true) => None,
            };
            if let Some(what) = what {
                plan.because(format!("waiting for {name} to be {what}"));
                return STOP;
            }
        }
        self.correct_claims(member, work, plan);
        if let Some(patch) = identity::correction(self.set, &member.pod) {
            let [done, failed] = self.notes("Update", member);
            work.corrections.push(Op::strategic_patch(&*member.pod, &patch).then(done).otherwise(failed));
        }
        GO_ON
    }

    /// Deletes a member that is too many, in order: the last first, and only while the others serve.
    fn dismiss(
        &self,
        member: &Member,
        first_unavailable: Option<&str>,
        work: &mut Work,
        plan: &mut Plan,
    ) -> ControlFlow<()> {
        if member.is_terminating() {
            return STOP;
        }
        let serves = member.is_running_and_ready() && self.is_available(&member.pod);
        if self.is_ordered() && !serves && first_unavailable != Some(member.name()) {
            let who = first_unavailable.unwrap_or("");
            plan.because(format!("waiting for {who} to be available before scaling down"));
            return STOP;
        }
        work.deletions.push(self.deletion(member));
        STOP
    }

    /// Replaces the last member that is not of the new revision, once those behind it serve.
    fn roll(&self, wanted: &[Member], status: &mut StatefulSetStatus, work: &mut Work, plan: &mut Plan) {
        let partition = self.strategy().rolling_update.and_then(|r| r.partition).unwrap_or(0);
        let first = usize::try_from(partition).unwrap_or(0);
        for member in wanted.iter().skip(first).rev() {
            let is_new = history::label(&member.pod.metadata, HASH_LABEL) == self.update.name;
            if member.exists && !is_new && !member.is_terminating() {
                work.deletions.push(self.deletion(member));
                status.current_replicas =
                    crate::children::positive((status.current_replicas.unwrap_or(0) - 1).max(0));
                return;
            }
            if !self.is_available(&member.pod) || member.is_terminating() {
                plan.because(format!("waiting for {} to be updated", member.name()));
                return;
            }
        }
    }

    /// Creates what claims are missing and corrects whom the others belong to; stops where one is going away.
    fn claim(&self, member: &Member, creating: bool, work: &mut Work, plan: &mut Plan) -> ControlFlow<()> {
        let pod = member.name();
        for wanted in claims(self.set, member.ordinal) {
            let name = wanted.metadata.name.clone().unwrap_or_default();
            match self.find_claim(&wanted) {
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => {
                    let message = format!("pvc {name} is being deleted");
                    if creating {
                        let [_, mut failed] = self.notes("Create", member);
                        failed.message = failed.message.replace("{error}", &message);
                        plan.note(failed);
                    }
                    work.retry = Some(message);
                    return STOP;
                }
                Some(_) => {}
                None => {
                    let set = self.name();
                    let done = format!("Create Claim {name} Pod {pod} in StatefulSet {set} success");
                    let failed = format!(
                        "Create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {{error}}"
                    );
                    let owned = Owned { claim: &wanted, set: self.set, pod: &member.pod, in_range: true };
                    let mut op = Op::create(&owned.corrected().unwrap_or_else(|| wanted.clone()))
                        .then(self.note("Normal", "SuccessfulCreate", done))
                        .otherwise(self.note("Warning", "FailedCreate", failed))
                        .tolerating(&[ALREADY_EXISTS]);
                    if creating {
                        let [_, mut failed] = self.notes("Create", member);
                        let error = format!("failed to create PVC {name}: {{error}}");
                        failed.message = failed.message.replace("{error}", &error);
                        op = op.otherwise(failed);
                    }
                    work.claims.push(op);
                }
            }
        }
        self.correct_claims(member, work, plan);
        GO_ON
    }

    fn find_claim(&self, wanted: &PersistentVolumeClaim) -> Option<Arc<PersistentVolumeClaim>> {
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or("");
        self.world.claims.find(namespace, wanted.metadata.name.as_deref()?)
    }

    /// Whether a claim still belongs to a member that was scaled away, and goes with it.
    fn claims_are_former(&self, member: &Member) -> bool {
        Policy::of(self.set).delete_when_scaled
            && claims(self.set, member.ordinal).iter().filter_map(|c| self.find_claim(c)).any(|claim| {
                Owned { claim: &claim, set: self.set, pod: &member.pod, in_range: true }.is_of_former_pod()
            })
    }

    /// Makes the claims belong to whom the retention policy says.
    fn correct_claims(&self, member: &Member, work: &mut Work, plan: &mut Plan) {
        let in_range = self.in_range(member.ordinal);
        for claim in claims(self.set, member.ordinal).iter().filter_map(|c| self.find_claim(c)) {
            let owned = Owned { claim: &claim, set: self.set, pod: &member.pod, in_range };
            let Some(corrected) = owned.corrected() else { continue };
            if owned.has_other_manager() {
                let name = claim.metadata.name.as_deref().unwrap_or("");
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging \
                     controller, the retention policy is ignored for this claim"
                );
                plan.note(self.note("Warning", "ConflictingController", message));
            }
            work.corrections.push(Op::replace(&corrected));
        }
    }

    fn creation(&self, member: &Member) -> Op {
        let [done, failed] = self.notes("Create", member);
        Op::create(&*member.pod).then(done).otherwise(failed)
    }

    fn deletion(&self, member: &Member) -> Op {
        let [done, failed] = self.notes("Delete", member);
        Op::delete(&*member.pod).then(done).otherwise(failed)
    }

    /// What tells of an operation on a member: that it succeeded, and that it failed.
    fn notes(&self, verb: &str, member: &Member) -> [crate::plan::Note; 2] {
        let (done, failed) = match verb {
            "Create" => ("SuccessfulCreate", "FailedCreate"),
            "Delete" => ("SuccessfulDelete", "FailedDelete"),
            _ => ("SuccessfulUpdate", "FailedUpdate"),
        };
        let what = format!("{verb} Pod {} in StatefulSet {}", member.name(), self.name());
        [
            self.note("Normal", done, format!("{what} successful")),
            self.note("Warning", failed, format!("{what} failed error: {{error}}")),
        ]
    }
}
