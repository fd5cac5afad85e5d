//! The conditions of an object and their reasons: closed lists, each with its meaning. Pure. `docs/conditions.md` is made from here.

use std::fmt::Write as _;

/// What is said of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// Whether it is understood and its children may be written.
    Accepted,
    /// Whether what it asks for fits and can answer.
    Preflight,
    /// Whether pods answer.
    Available,
    /// Whether its models are loaded, or need not be.
    ModelReady,
    /// Everything together.
    Ready,
}

/// Why. A reason belongs to one condition; `Ready` has the reason of whatever holds it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`meaning` says it, for people and for the page")]
pub enum Reason {
    Accepted,
    InvalidSpec,
    NameConflict,
    ReconcileFailed,
    Passed,
    Fits,
    InsufficientMemory,
    PreflightFailed,
    ConfigurationRefused,
    ApiKeysUnusable,
    CertificateUnusable,
    WeightsUnusable,
    TokenizerUnusable,
    StoreUnreachable,
    CollectionUnusable,
    NodesNotReadable,
    NoNodeYet,
    MemoryUnknown,
    NotChecked,
    Available,
    Paused,
    NotCreated,
    Downloading,
    DownloadFailed,
    Unschedulable,
    ImagePullFailed,
    StartFailed,
    Crashing,
    PodsRefused,
    DeviceUnhealthy,
    Progressing,
    PodsNotObserved,
    Loaded,
    Standby,
    Loading,
    LoadFailed,
    NoPods,
    NotReachable,
    ModelsNotObserved,
    Ready,
}

/// True, False or Unknown, as conditions spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not.
    False,
    /// Nothing can be said, yet or ever.
    Unknown,
}

impl Truth {
    /// As conditions spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl ConditionType {
    /// Every one, in the order of status.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::Preflight, Self::Available, Self::ModelReady, Self::Ready];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Preflight => "Preflight",
            Self::Available => "Available",
            Self::ModelReady => "ModelReady",
            Self::Ready => "Ready",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Accepted => "The object is understood, and its children may be written.",
            Self::Preflight => {
                "What is asked for fits a node, and, once a pod has looked, can answer. Unknown does not hold `Ready` back."
            }
            Self::Available => "Pods answer, in a rollout those of before.",
            Self::ModelReady => "Models are loaded, or wait for the first request (`Standby`).",
            Self::Ready => {
                "All of the above, by pods that are all of what is asked for now. That `Preflight` or `ModelReady` is Unknown does not hold it back. \
                 False and Unknown have the reason of what does."
            }
        }
    }
}

impl Reason {
    /// Every one, by condition.
    pub const ALL: [Self; 40] = [
        Self::Accepted,
        Self::InvalidSpec,
        Self::NameConflict,
        Self::ReconcileFailed,
        Self::Passed,
        Self::Fits,
        Self::InsufficientMemory,
        Self::PreflightFailed,
        Self::ConfigurationRefused,
        Self::ApiKeysUnusable,
        Self::CertificateUnusable,
        Self::WeightsUnusable,
        Self::TokenizerUnusable,
        Self::StoreUnreachable,
        Self::CollectionUnusable,
        Self::NodesNotReadable,
        Self::NoNodeYet,
        Self::MemoryUnknown,
        Self::NotChecked,
        Self::Available,
        Self::Paused,
        Self::NotCreated,
        Self::Downloading,
        Self::DownloadFailed,
        Self::Unschedulable,
        Self::ImagePullFailed,
        Self::StartFailed,
        Self::Crashing,
        Self::PodsRefused,
        Self::DeviceUnhealthy,
        Self::Progressing,
        Self::PodsNotObserved,
        Self::Loaded,
        Self::Standby,
        Self::Loading,
        Self::LoadFailed,
        Self::NoPods,
        Self::NotReachable,
        Self::ModelsNotObserved,
        Self::Ready,
    ];

    /// Its name in the condition.
    pub const fn as_str(self) -> &'static str {
        self.row().2
    }

    /// The condition that it belongs to.
    pub const fn condition(self) -> ConditionType {
        self.row().0
    }

    /// What it makes of its condition.
    pub const fn truth(self) -> Truth {
        self.row().1
    }

    const fn meaning(self) -> &'static str {
        self.row().3
    }

    #[expect(clippy::too_many_lines, reason = "it is a table")]
    const fn row(self) -> (ConditionType, Truth, &'static str, &'static str) {
        use ConditionType as C;
        use Truth::{False, True, Unknown};
        match self {
            Self::Accepted => (
                C::Accepted,
                True,
                "Accepted",
                "Its children are as it says, but for pods that `Preflight` holds back.",
            ),
            Self::InvalidSpec => (
                C::Accepted,
                False,
                "InvalidSpec",
                "The server would refuse its configuration; the message names fields. Children that are there stay as they are.",
            ),
            Self::NameConflict => (
                C::Accepted,
                False,
                "NameConflict",
                "An object of a child's name belongs to somebody else. Nothing is written.",
            ),
            Self::ReconcileFailed => (
                C::Accepted,
                Unknown,
                "ReconcileFailed",
                "The API server refused a read or a write, or could not be reached; the message is its own. It is tried again.",
            ),
            Self::Passed => (
                C::Preflight,
                True,
                "Passed",
                "A pod has looked: memory, weights, tokenizer, Secrets, store and collections are in order.",
            ),
            Self::Fits => (C::Preflight, True, "Fits", "A node can hold it; no pod has looked yet."),
            Self::InsufficientMemory => (
                C::Preflight,
                False,
                "InsufficientMemory",
                "It does not fit; the message has what is needed, what was found, and what would fit. Pods that run stay what they were, in the number \
                 that is asked for now; where there are none, none is made.",
            ),
            Self::PreflightFailed => (
                C::Preflight,
                False,
                "PreflightFailed",
                "Preflight of a pod ended before it had looked; the message has its exit code.",
            ),
            Self::ConfigurationRefused => (
                C::Preflight,
                False,
                "ConfigurationRefused",
                "The pod's server does not accept its configuration: another version than the operator's.",
            ),
            Self::ApiKeysUnusable => {
                (C::Preflight, False, "ApiKeysUnusable", "The Secret of API keys is absent, empty or not to be used.")
            }
            Self::CertificateUnusable => (
                C::Preflight,
                False,
                "CertificateUnusable",
                "The Secret of the API's certificate is absent or not to be used.",
            ),
            Self::WeightsUnusable => {
                (C::Preflight, False, "WeightsUnusable", "Weights are absent, damaged, or of a kind that is not read.")
            }
            Self::TokenizerUnusable => {
                (C::Preflight, False, "TokenizerUnusable", "The tokenizer does not make prompts.")
            }
            Self::StoreUnreachable => {
                (C::Preflight, False, "StoreUnreachable", "Qdrant does not answer, or refuses the key.")
            }
            Self::CollectionUnusable => (
                C::Preflight,
                False,
                "CollectionUnusable",
                "A collection is absent, or was made for another embedding model.",
            ),
            Self::NodesNotReadable => (
                C::Preflight,
                Unknown,
                "NodesNotReadable",
                "Nodes may not be read: the operator is installed for one namespace, or lacks the right; then the message is the API server's.",
            ),
            Self::NoNodeYet => (
                C::Preflight,
                Unknown,
                "NoNodeYet",
                "No node that pods may run on has what they ask for now, or none of today's is large enough and nodes are elastic.",
            ),
            Self::MemoryUnknown => (
                C::Preflight,
                Unknown,
                "MemoryUnknown",
                "Nodes do not say how much memory their GPUs have, or the catalogue does not know the model.",
            ),
            Self::NotChecked => {
                (C::Preflight, Unknown, "NotChecked", "Nothing was looked at, since the object is not accepted.")
            }
            Self::Available => (
                C::Available,
                True,
                "Available",
                "As many pods are ready as are asked for, or one less, but at least one. Where one is missing the message says why.",
            ),
            Self::Paused => (C::Available, False, "Paused", "`replicas: 0`."),
            Self::NotCreated => {
                (C::Available, False, "NotCreated", "There are no pods, since something else holds them back.")
            }
            Self::Downloading => (
                C::Available,
                False,
                "Downloading",
                "A pod downloads its models; its init container `download` logs how far it is.",
            ),
            Self::DownloadFailed => {
                (C::Available, False, "DownloadFailed", "A pod cannot download its models; the message is the hub's.")
            }
            Self::Unschedulable => {
                (C::Available, False, "Unschedulable", "A pod waits for a node; the message is the scheduler's.")
            }
            Self::ImagePullFailed => {
                (C::Available, False, "ImagePullFailed", "An image cannot be had; the message is the node's.")
            }
            Self::StartFailed => {
                (C::Available, False, "StartFailed", "A container cannot begin; the message is the node's.")
            }
            Self::Crashing => {
                (C::Available, False, "Crashing", "The server ends again and again; the message has its exit code.")
            }
            Self::PodsRefused => (
                C::Available,
                False,
                "PodsRefused",
                "Pods may not be made: a quota, a policy. The message is the API server's.",
            ),
            Self::DeviceUnhealthy => (
                C::Available,
                False,
                "DeviceUnhealthy",
                "The node says that a device of a pod does not work; the message names it.",
            ),
            Self::Progressing => (
                C::Available,
                False,
                "Progressing",
                "Pods start or are replaced, or findings of preflight hold them back.",
            ),
            Self::PodsNotObserved => {
                (C::Available, Unknown, "PodsNotObserved", "The operator could not look yet; `Accepted` says why.")
            }
            Self::Loaded => (C::ModelReady, True, "Loaded", "Models are loaded in every ready pod."),
            Self::Standby => (C::ModelReady, True, "Standby", "Nothing needs to be loaded; the first request loads."),
            Self::Loading => (C::ModelReady, False, "Loading", "A model is loaded, warmed or tested."),
            Self::LoadFailed => (
                C::ModelReady,
                False,
                "LoadFailed",
                "A model could not be loaded or failed its self-test; the message is the pod's.",
            ),
            Self::NoPods => {
                (C::ModelReady, False, "NoPods", "No pod of what is asked for is ready, and none says why.")
            }
            Self::NotReachable => (
                C::ModelReady,
                Unknown,
                "NotReachable",
                "No ready pod's control port answers the operator: a network policy? It does not hold `Ready` back.",
            ),
            Self::ModelsNotObserved => {
                (C::ModelReady, Unknown, "ModelsNotObserved", "The operator could not look yet; `Accepted` says why.")
            }
            Self::Ready => (C::Ready, True, "Ready", "It answers."),
        }
    }
}

/// The page of conditions and reasons.
pub fn conditions_markdown() -> String {
    let mut page = "# Conditions\n\n\
        What `kubectl get rrd` and `kubectl describe rrd` say of an object. Both lists are closed. Messages are for people and may change.\n\n\
        This page is made from the code; a test compares the two.\n"
        .to_owned();
    for condition in ConditionType::ALL {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n| status | reason | meaning |\n|---|---|---|\n",
            condition.as_str(),
            condition.meaning()
        );
        for reason in Reason::ALL.into_iter().filter(|reason| reason.condition() == condition) {
            let _ = writeln!(page, "| {} | `{}` | {} |", reason.truth().as_str(), reason.as_str(), reason.meaning());
        }
    }
    page
}
