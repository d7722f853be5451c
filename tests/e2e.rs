//! End to end: the real superd and superctl, real processes, waiting for events and never
//! for time to pass. One binary; each file below is about one promise.
//!
//! What cannot be run on a machine (no root, no cgroup v2, a real server that is not built)
//! is skipped by name, on standard error: `skipped: NAME: why`, and listed at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

#[macro_use]
#[path = "e2e/support.rs"]
mod support;

#[path = "e2e/announces.rs"]
mod announces;
#[path = "e2e/confinement.rs"]
mod confinement;
#[path = "e2e/crashes.rs"]
mod crashes;
#[path = "e2e/dependencies.rs"]
mod dependencies;
#[path = "e2e/doctor.rs"]
mod doctor;
#[path = "e2e/drain_hostile.rs"]
mod drain_hostile;
#[path = "e2e/drain_limits.rs"]
mod drain_limits;
#[path = "e2e/drain_networks.rs"]
mod drain_networks;
#[path = "e2e/drain_sockets.rs"]
mod drain_sockets;
#[path = "e2e/drain_storms.rs"]
mod drain_storms;
#[path = "e2e/drain_support.rs"]
mod drain_support;
#[path = "e2e/drain_tracked.rs"]
mod drain_tracked;
#[path = "e2e/drains.rs"]
mod drains;
#[path = "e2e/files.rs"]
mod files;
#[path = "e2e/five_twins.rs"]
mod five_twins;
#[path = "e2e/health.rs"]
mod health;
#[path = "e2e/hooks.rs"]
mod hooks;
#[path = "e2e/hostile.rs"]
mod hostile;
#[path = "e2e/init_scripts.rs"]
mod init_scripts;
#[path = "e2e/notices.rs"]
mod notices;
#[path = "e2e/outlooks.rs"]
mod outlooks;
#[path = "e2e/places.rs"]
mod places;
#[path = "e2e/points.rs"]
mod points;
#[path = "e2e/procd.rs"]
mod procd;
#[path = "e2e/readiness.rs"]
mod readiness;
#[path = "e2e/real_servers.rs"]
mod real_servers;
#[path = "e2e/restarts.rs"]
mod restarts;
#[path = "e2e/rpcd.rs"]
mod rpcd;
#[path = "e2e/starts.rs"]
mod starts;
#[path = "e2e/startup.rs"]
mod startup;
#[path = "e2e/stops.rs"]
mod stops;
#[path = "e2e/successors.rs"]
mod successors;
#[path = "e2e/templates.rs"]
mod templates;
#[path = "e2e/timers.rs"]
mod timers;
#[path = "e2e/trees.rs"]
mod trees;
#[path = "e2e/upgrades.rs"]
mod upgrades;
#[path = "e2e/verbs.rs"]
mod verbs;
#[path = "e2e/watches.rs"]
mod watches;
#[path = "e2e/wraps.rs"]
mod wraps;
