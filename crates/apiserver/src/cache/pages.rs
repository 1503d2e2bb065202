//! Lists: consistent, at a revision, and in pages whose snapshot is kept for the next page.

use super::entry::{Entry, EventType};
use super::resource_cache::{Map, ResourceCache, range};
use super::selector::{FieldRef, Selector};
use super::{Cache, store_failure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use meta::{ApiError, Reason};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Range, Revision, StoreError};

/// Snapshots kept for continued lists, per resource.
const SNAPSHOTS_MAX: usize = 32;
/// A snapshot goes this long after it was last used.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(300);

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. \
    You can start a new list without the continue parameter, or use the continue token in this response to \
    retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - \
    objects that were created, modified, or deleted between the time the first chunk was returned and now may \
    show up in the list.";

/// Which state a read shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Everything committed before the read.
    Newest,
    /// Whatever the cache has.
    Any,
    NotOlderThan(Revision),
    Exactly(Revision),
}

#[derive(Clone, Debug)]
pub struct ListRequest {
    pub selector: Selector,
    pub when: When,
    /// 0: no limit.
    pub limit: usize,
    /// Opaque, from an earlier page.
    pub continue_token: Option<String>,
}

#[derive(Default)]
pub struct ListPage {
    pub entries: Vec<Arc<Entry>>,
    pub revision: Revision,
    pub continue_token: Option<String>,
    /// None where a selector makes it unknown, or nothing remains.
    pub remaining: Option<usize>,
}

/// Why a list is refused.
#[derive(Debug)]
pub enum ListRefused {
    Api(ApiError),
    /// The continue token's revision is gone; with this token the client may go on at the newest state.
    ContinueExpired {
        error: ApiError,
        token: String,
    },
}

impl From<ApiError> for ListRefused {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

struct Snapshot {
    map: Map,
    used: Instant,
}

#[derive(Default)]
pub struct Snapshots(HashMap<Revision, Snapshot>);

impl Snapshots {
    fn keep(&mut self, revision: Revision, map: &Map) {
        let now = Instant::now();
        self.0.retain(|_, s| now.duration_since(s.used) < SNAPSHOT_IDLE);
        if self.0.len() >= SNAPSHOTS_MAX
            && !self.0.contains_key(&revision)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, s)| s.used).map(|(r, _)| *r)
        {
            self.0.remove(&oldest);
        }
        self.0.entry(revision).or_insert_with(|| Snapshot { map: map.clone(), used: now }).used = now;
    }

    fn forget(&mut self, revision: Revision) {
        self.0.remove(&revision);
    }

    fn find(&mut self, revision: Revision) -> Option<Map> {
        let snapshot = self.0.get_mut(&revision)?;
        snapshot.used = Instant::now();
        Some(snapshot.map.clone())
    }
}

/// Upstream's token: the revision of the first page and the key to go on from.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

fn encode_token(revision: i64, start: &str) -> String {
    let token = Token { v: "meta.k8s.io/v1".into(), rv: revision, start: start.into() };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("strings and a number"))
}

fn decode_token(token: &str) -> Result<(i64, String), ApiError> {
    let refuse = |why: String| ApiError::bad_request(format!("invalid continue token: {why}"));
    let invalid = |why: String| refuse(format!("continue key is not valid: {why}"));
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|e| invalid(e.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(invalid(format!("server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
    }
    if token.start.is_empty() {
        return Err(invalid("encoded start key empty (version meta.k8s.io/v1)".into()));
    }
    if token.start.split('/').any(|s| matches!(s, ".." | "." | "")) {
        return Err(invalid(token.start));
    }
    Ok((token.rv, token.start))
}

impl Cache {
    /// # Errors
    /// Expired (410), Timeout for a revision that is not reached, BadRequest for a bad token.
    pub async fn list(
        &self,
        resource: &ResourceCache,
        request: &ListRequest,
    ) -> Result<ListPage, ListRefused> {
        if let Some(token) = request.continue_token.as_deref().filter(|t| !t.is_empty()) {
            if !matches!(request.when, When::Newest | When::Any) {
                let why = "specifying resource version is not allowed when using continue";
                return Err(ApiError::bad_request(why).into());
            }
            let (revision, start) = decode_token(token)?;
            let start = resource.key_prefix(request.selector.namespace.as_deref().unwrap_or("")) + &start;
            return self.next_page(resource, request, revision, &start).await;
        }
        if let When::Exactly(at) = request.when {
            let map = self.map_at(resource, at).await?;
            return Ok(page(resource, &map, at, request, None));
        }
        let reached = match request.when {
            When::Newest => self.catch_up().await?,
            When::NotOlderThan(r) => self.wait_for(r).await?,
            When::Any | When::Exactly(_) => self.revision(),
        };
        let (map, last) = resource.snapshot();
        Ok(page(resource, &map, reached.max(last), request, None))
    }

    async fn next_page(
        &self,
        resource: &ResourceCache,
        request: &ListRequest,
        revision: i64,
        start: &str,
    ) -> Result<ListPage, ListRefused> {
        let Ok(at) = u64::try_from(revision).map(Revision) else {
            // The client accepted an inconsistent continuation: on at the newest state.
            let reached = self.catch_up().await?;
            let (map, last) = resource.snapshot();
            return Ok(page(resource, &map, reached.max(last), request, Some(start)));
        };
        match self.map_at(resource, at).await {
            Ok(map) => Ok(page(resource, &map, at, request, Some(start))),
            Err(error) if error.reason == Reason::Expired => {
                let prefix = resource.key_prefix(request.selector.namespace.as_deref().unwrap_or(""));
                let token = encode_token(-1, start.strip_prefix(&prefix).unwrap_or(start));
                Err(ListRefused::ContinueExpired { error: ApiError::expired(CONTINUE_EXPIRED), token })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The objects as of a revision that the store still remembers: a kept snapshot, the present state where
    /// nothing changed since, or what the store says.
    async fn map_at(&self, resource: &ResourceCache, at: Revision) -> Result<Map, ApiError> {
        // compaction ends a list in pages as it does upstream, however often its snapshot is asked for
        if let Err(error @ StoreError::Compacted { .. }) = self.store().check_readable(at).await {
            resource.snapshots.lock().forget(at);
            return Err(store_failure(&error));
        }
        if let Some(map) = resource.snapshots.lock().find(at) {
            return Ok(map);
        }
        let reached = self.wait_for(at).await?;
        let (map, last) = resource.snapshot();
        if last <= at && at <= reached {
            return Ok(map);
        }
        let mut map = Map::new_sync();
        let mut after = None;
        loop {
            let prefix = resource.prefix.as_str().into();
            let read = self.store().range(Range { prefix, after, limit: 2000, at: Some(at) }).await;
            let read = read.map_err(|e| store_failure(&e))?;
            for kv in &read.items {
                map.insert_mut(kv.key.clone(), resource.entry(kv, EventType::Added, None)?);
            }
            match read.items.last() {
                Some(last) if read.remaining > 0 => after = Some(last.key.clone()),
                _ => break,
            }
        }
        resource.snapshots.lock().keep(at, &map);
        Ok(map)
    }
}

fn page(
    resource: &ResourceCache,
    map: &Map,
    revision: Revision,
    request: &ListRequest,
    start: Option<&str>,
) -> ListPage {
    let selector = &request.selector;
    if start.is_none() && (request.limit == 0 || selector.pinned(FieldRef::Name).is_some()) {
        return ListPage { entries: resource.select(map, selector), revision, ..ListPage::default() };
    }
    let prefix = resource.key_prefix(selector.namespace.as_deref().unwrap_or(""));
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    let mut entries = Vec::new();
    let mut rest = range(map, &prefix, start).peekable();
    while entries.len() < limit
        && let Some(entry) = rest.next()
    {
        if selector.matches_in_namespace(entry) {
            entries.push(entry.clone());
        }
    }
    let last = entries.last();
    let (Some(last), true) = (last, rest.peek().is_some()) else {
        return ListPage { entries, revision, ..ListPage::default() };
    };
    let relative = last.key.strip_prefix(prefix.as_str()).unwrap_or(&last.key);
    let token = encode_token(i64::try_from(revision.0).unwrap_or(i64::MAX), &format!("{relative}\0"));
    let remaining = selector.is_everything().then(|| rest.count());
    resource.snapshots.lock().keep(revision, map);
    ListPage { entries, revision, continue_token: Some(token), remaining }
}
