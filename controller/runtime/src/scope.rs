//! The namespaces that this controller manages.
//!
//! With a list of namespaces, only these are watched, so that Roles suffice. With a label selector,
//! all namespaces are watched, and the controller acts only in those whose labels match. A change of
//! the labels counts at once: the selection is part of the [`Ownership`] that every reconcile and
//! every write checks.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster_cache::{Key, WatchBackoff};
use crate::ownership::Ownership;

/// Duration of one watch request, in seconds.
const WATCH_SECONDS: u32 = 60;

/// The namespaces that a controller manages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    #[default]
    All,
    /// These namespaces. Not empty.
    Namespaces(BTreeSet<String>),
    /// The namespaces whose labels match this selector, in the syntax of `kubectl get -l`.
    Selected(String),
}

impl Scope {
    /// The namespaces to watch, each on its own. Empty if all namespaces are watched together.
    pub fn watched_namespaces(&self) -> Vec<String> {
        match self {
            Self::All | Self::Selected(_) => Vec::new(),
            Self::Namespaces(namespaces) => namespaces.iter().cloned().collect(),
        }
    }

    /// Limits the ownership to the scope. With a list of namespaces, nothing else is watched.
    pub fn limit(&self, ownership: Arc<dyn Ownership>, client: &Client) -> Arc<dyn Ownership> {
        match self {
            Self::All | Self::Namespaces(_) => ownership,
            Self::Selected(selector) => Arc::new(SelectedNamespaces::start(
                client.clone(),
                selector.clone(),
                ownership,
            )),
        }
    }

    /// The namespaces in scope now. `None` if all are.
    ///
    /// # Errors
    /// The namespaces could not be listed.
    pub async fn current_namespaces(&self, client: &Client) -> kube::Result<Option<Vec<String>>> {
        match self {
            Self::All => Ok(None),
            Self::Namespaces(namespaces) => Ok(Some(namespaces.iter().cloned().collect())),
            Self::Selected(selector) => {
                let api: Api<Namespace> = Api::all(client.clone());
                let params = ListParams::default().labels(selector);
                let list = api.list_metadata(&params).await?;
                Ok(Some(list.items.iter().map(ResourceExt::name_any).collect()))
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all namespaces"),
            Self::Namespaces(namespaces) => {
                let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                f.write_str(&names.join(", "))
            }
            Self::Selected(selector) => write!(f, "namespaces with {selector}"),
        }
    }
}

/// Checks a label selector in the syntax of `kubectl get -l`.
///
/// # Errors
/// It is empty or cannot be parsed.
pub fn parse_selector(text: &str) -> Result<String, String> {
    let mut requirements = vec![String::new()];
    let mut depth = 0_usize;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                requirements.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = requirements.last_mut() {
            last.push(character);
        }
    }
    if depth == 0 && requirements.iter().all(|one| is_requirement(one.trim())) {
        Ok(text.trim().to_owned())
    } else {
        Err(
            "use a label selector, for example team=shop or serin.dev/managed in (yes, canary)"
                .to_owned(),
        )
    }
}

/// Whether the text is `key`, `!key`, `key=value`, `key==value`, `key!=value`, `key in (values)` or
/// `key notin (values)`.
fn is_requirement(text: &str) -> bool {
    let is_word = |word: &str, extra: &[char]| {
        let is_permitted = |character: char| {
            character.is_ascii_alphanumeric()
                || "-_.".contains(character)
                || extra.contains(&character)
        };
        word.chars().all(is_permitted)
    };
    let is_key = |key: &str| !key.is_empty() && is_word(key, &['/']);
    let is_value = |value: &str| is_word(value, &[]);
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_key(key.trim()) && is_value(value.trim());
        }
    }
    if let Some((key, set)) = text.split_once(char::is_whitespace) {
        let set = set.trim();
        let values = set.strip_prefix("notin").or_else(|| set.strip_prefix("in"));
        let values = values.and_then(|values| values.trim().strip_prefix('(')?.strip_suffix(')'));
        let are_values = |values: &str| values.split(',').all(|value| is_value(value.trim()));
        return is_key(key) && values.is_some_and(are_values);
    }
    is_key(text.strip_prefix('!').unwrap_or(text))
}

/// The selected namespaces. `None` until they have been listed.
type Selection = watch::Receiver<Option<BTreeSet<String>>>;

/// Ownership of the Rollouts in namespaces that a label selector matches.
#[derive(Debug)]
struct SelectedNamespaces {
    inner: Arc<dyn Ownership>,
    selection: Selection,
    changes: watch::Receiver<bool>,
}

impl SelectedNamespaces {
    /// Watches the namespaces with these labels. Until they are listed, nothing is owned.
    fn start(client: Client, selector: String, inner: Arc<dyn Ownership>) -> Self {
        let (selected, selection) = watch::channel(None);
        tokio::spawn(watch_namespaces(client, selector, selected));
        Self::new(inner, selection)
    }

    fn new(inner: Arc<dyn Ownership>, selection: Selection) -> Self {
        let (announce, changes) = watch::channel(false);
        tokio::spawn(forward_changes(
            inner.changes(),
            selection.clone(),
            announce,
        ));
        Self {
            inner,
            selection,
            changes,
        }
    }

    fn is_selected(&self, namespace: &str) -> bool {
        let selection = self.selection.borrow();
        selection
            .as_ref()
            .is_some_and(|selected| selected.contains(namespace))
    }
}

impl Ownership for SelectedNamespaces {
    fn owns(&self, rollout: &Key) -> bool {
        self.is_selected(&rollout.namespace) && self.inner.owns(rollout)
    }

    fn write_deadline(&self, rollout: &Key) -> Option<Instant> {
        if self.is_selected(&rollout.namespace) {
            self.inner.write_deadline(rollout)
        } else {
            Some(Instant::now())
        }
    }

    fn changes(&self) -> watch::Receiver<bool> {
        self.changes.clone()
    }
}

/// Announces every change of the ownership and of the selection.
async fn forward_changes(
    mut leads: watch::Receiver<bool>,
    mut selection: Selection,
    announce: watch::Sender<bool>,
) {
    loop {
        let now = *leads.borrow_and_update();
        announce.send_replace(now);
        let (mut leads, mut selection) = (pin!(leads.changed()), pin!(selection.changed()));
        let ended = tokio::select! {
            changed = &mut leads => changed.is_err(),
            changed = &mut selection => changed.is_err(),
        };
        if ended {
            // Both last as long as the process. Receivers keep waiting.
            announce.closed().await;
            return;
        }
    }
}

/// Keeps the selection current. Never returns.
async fn watch_namespaces(
    client: Client,
    selector: String,
    selected: watch::Sender<Option<BTreeSet<String>>>,
) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let config = watcher::Config::default()
        .labels(&selector)
        .timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api, config).backoff(WatchBackoff::default()));
    let mut listing = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(namespace)) => drop(listing.insert(namespace.name_any())),
            Ok(Event::InitDone) => update(&selected, std::mem::take(&mut listing)),
            // A namespace that no longer matches is deleted from the view of this watch.
            Ok(Event::Apply(namespace)) => change(&selected, |names| {
                names.insert(namespace.name_any());
            }),
            Ok(Event::Delete(namespace)) => change(&selected, |names| {
                names.remove(&namespace.name_any());
            }),
            Err(error) => {
                tracing::warn!(kind = "namespaces", %error, "watch interrupted; retrying");
            }
        }
    }
}

fn change(
    selected: &watch::Sender<Option<BTreeSet<String>>>,
    change: impl FnOnce(&mut BTreeSet<String>),
) {
    let mut names = selected.borrow().clone().unwrap_or_default();
    change(&mut names);
    update(selected, names);
}

fn update(selected: &watch::Sender<Option<BTreeSet<String>>>, names: BTreeSet<String>) {
    selected.send_if_modified(|before| {
        let is_new = before.as_ref() != Some(&names);
        if is_new {
            tracing::info!(namespaces = ?names, "the selected namespaces have changed");
            *before = Some(names);
        }
        is_new
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::Leadership;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_rollouts_in_selected_namespaces_are_owned() {
        let (selected, selection) = watch::channel(None);
        let (leads, leadership) = Leadership::scripted(true);
        let ownership = SelectedNamespaces::new(Arc::new(leadership), selection);
        let (shop, pay) = (Key::new("shop", "web"), Key::new("pay", "web"));
        let mut changes = ownership.changes();
        assert!(
            !ownership.owns(&shop),
            "nothing is selected before the list"
        );
        for (selection, owned) in [(["shop"], [true, false]), (["pay"], [false, true])] {
            changes.borrow_and_update();
            selected.send_replace(Some(names(&selection)));
            changes.changed().await.unwrap();
            assert_eq!([ownership.owns(&shop), ownership.owns(&pay)], owned);
        }
        let deadline = ownership.write_deadline(&shop).unwrap();
        assert!(
            deadline <= Instant::now(),
            "writes in other namespaces end at once"
        );
        assert_eq!(ownership.write_deadline(&pay), None);
        leads.send_replace(false);
        assert!(!ownership.owns(&pay), "a standby owns nothing");
    }

    #[test]
    fn an_invalid_selector_is_refused() {
        for valid in [
            "team=shop",
            "env in (a, b),!legacy",
            "serin.dev/managed",
            "a!=b,c == d,e notin (f)",
        ] {
            assert_eq!(parse_selector(valid), Ok(valid.to_owned()));
        }
        for invalid in ["", "  ", "a b", "in (", "=x", "a,,b", "a=b c", "a in b"] {
            assert!(parse_selector(invalid).is_err(), "{invalid}");
        }
    }
}
