//! The path table.

use std::future::Future;
use std::pin::Pin;

use http::Method;

use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::{
    backup, build, cluster_logs, container_io, containers, exec, image_push, image_transfer,
    images, info, network_check, networks, nodes, payload_versions, rebalance, registry_logins,
    runs, secrets, services, stacks, swarm, system, task_exec, tasks, tokens, volume_homes,
    volumes, why,
};

type Answer = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What answers a request. Segments are the path's, without the version and unescaped.
pub(crate) fn find(call: Call, method: &Method, path: &[&str]) -> Answer {
    let own = |text: &str| text.to_owned();
    match (method.as_str(), path) {
        ("GET" | "HEAD", ["_ping"]) => Box::pin(system::ping(call)),
        ("GET", ["version"]) => Box::pin(system::version(call)),
        ("GET", ["info"]) => Box::pin(info::info(call)),
        ("GET", ["events"]) => Box::pin(system::events(call)),
        ("GET", ["system", "df"]) => Box::pin(system::disk_usage(call)),
        ("POST", ["auth"]) => Box::pin(images::login(call)),
        ("GET", ["plugins"]) => Box::pin(system::plugins(call)),
        ("GET", ["plugins", "privileges"]) | ("POST", ["plugins", "pull" | "create"]) => {
            Box::pin(system::unsupported(call, "managing plugins"))
        }
        ("GET", ["plugins", name @ .., "json"])
        | (
            "POST",
            [
                "plugins",
                name @ ..,
                "enable" | "disable" | "upgrade" | "push" | "set",
            ],
        )
        | ("DELETE", ["plugins", name @ ..])
            if !name.is_empty() =>
        {
            Box::pin(system::no_plugin(call, name.join("/")))
        }
        ("POST", ["build"]) => Box::pin(build::build(call)),
        ("POST", ["build", "prune"]) => Box::pin(build::prune(call)),
        ("POST", ["build", "cancel"] | ["session"] | ["grpc"]) => Box::pin(system::buildkit(call)),

        ("GET", ["containers", "json"]) => Box::pin(containers::list(call)),
        ("POST", ["containers", "create"]) => Box::pin(containers::create(call)),
        ("POST", ["containers", "prune"]) => Box::pin(containers::prune(call)),
        ("POST", ["commit"]) => Box::pin(containers::commit(call)),
        // The name of a link has a slash in it.
        ("DELETE", ["containers", name @ ..]) if !name.is_empty() => {
            Box::pin(containers::remove(call, name.join("/")))
        }
        ("GET", ["containers", id, "json"]) => Box::pin(containers::inspect(call, own(id))),
        ("GET", ["containers", id, "top"]) => Box::pin(containers::top(call, own(id))),
        ("GET", ["containers", id, "changes"]) => Box::pin(containers::changes(call, own(id))),
        ("GET", ["containers", id, "logs"]) => Box::pin(container_io::logs(call, own(id))),
        ("GET", ["containers", id, "export"]) => Box::pin(container_io::export(call, own(id))),
        ("GET", ["containers", id, "stats"]) => Box::pin(container_io::stats(call, own(id))),
        ("HEAD", ["containers", id, "archive"]) => {
            Box::pin(container_io::archive_stat(call, own(id)))
        }
        ("GET", ["containers", id, "archive"]) => {
            Box::pin(container_io::archive_get(call, own(id)))
        }
        ("PUT", ["containers", id, "archive"]) => {
            Box::pin(container_io::archive_put(call, own(id)))
        }
        ("GET", ["containers", id, "attach", "ws"]) => {
            Box::pin(container_io::attach_websocket(call, own(id)))
        }
        (_, ["containers", _, "checkpoints", ..]) => {
            Box::pin(system::unsupported(call, "checkpointing"))
        }
        ("POST", ["containers", id, "attach"]) => Box::pin(container_io::attach(call, own(id))),
        ("POST", ["containers", id, "exec"]) => Box::pin(exec::create(call, own(id))),
        ("POST", ["containers", id, "start"]) => Box::pin(containers::start(call, own(id))),
        ("POST", ["containers", id, "stop"]) => Box::pin(containers::stop(call, own(id))),
        ("POST", ["containers", id, "restart"]) => Box::pin(containers::restart(call, own(id))),
        ("POST", ["containers", id, "kill"]) => Box::pin(containers::kill(call, own(id))),
        ("POST", ["containers", id, "pause"]) => Box::pin(containers::pause(call, own(id))),
        ("POST", ["containers", id, "unpause"]) => Box::pin(containers::unpause(call, own(id))),
        ("POST", ["containers", id, "rename"]) => Box::pin(containers::rename(call, own(id))),
        ("POST", ["containers", id, "update"]) => Box::pin(containers::update(call, own(id))),
        ("POST", ["containers", id, "resize"]) => Box::pin(containers::resize(call, own(id))),
        ("POST", ["containers", id, "wait"]) => Box::pin(containers::wait(call, own(id))),

        ("POST", ["exec", id, "start"]) => Box::pin(exec::start(call, own(id))),
        ("POST", ["exec", id, "resize"]) => Box::pin(exec::resize(call, own(id))),
        ("GET", ["exec", id, "json"]) => Box::pin(exec::inspect(call, own(id))),

        ("GET", ["images", "json"]) => Box::pin(images::list(call)),
        ("GET", ["images", "search"]) => Box::pin(images::search(call)),
        ("GET", ["images", "get"]) => Box::pin(image_transfer::save(call, None)),
        ("POST", ["images", "create"]) => Box::pin(image_transfer::create(call)),
        ("POST", ["images", "load"]) => Box::pin(image_transfer::load(call)),
        ("POST", ["images", "prune"]) => Box::pin(images::prune(call)),
        // Names of images have slashes in them.
        ("GET", ["images", name @ .., "json"]) => Box::pin(images::inspect(call, name.join("/"))),
        ("GET", ["images", name @ .., "history"]) => {
            Box::pin(images::history(call, name.join("/")))
        }
        ("GET", ["images", name @ .., "get"]) => {
            Box::pin(image_transfer::save(call, Some(name.join("/"))))
        }
        ("POST", ["images", name @ .., "push"]) => {
            Box::pin(image_transfer::push(call, name.join("/")))
        }
        ("POST", ["images", name @ .., "tag"]) => Box::pin(images::tag(call, name.join("/"))),
        ("DELETE", ["images", name @ ..]) => Box::pin(images::remove(call, name.join("/"))),
        ("GET", ["distribution", name @ .., "json"]) => {
            Box::pin(images::distribution(call, name.join("/")))
        }

        ("GET", ["volumes"]) => Box::pin(volumes::list(call)),
        ("POST", ["volumes", "create"]) => Box::pin(volumes::create(call)),
        ("POST", ["volumes", "prune"]) => Box::pin(volumes::prune(call)),
        ("GET", ["volumes", name]) => Box::pin(volumes::inspect(call, own(name))),
        ("PUT", ["volumes", name]) => Box::pin(volumes::update(call, own(name))),
        ("DELETE", ["volumes", name]) => Box::pin(volumes::remove(call, own(name))),

        ("GET", ["networks"] | ["networks", ""]) => Box::pin(networks::list(call)),
        ("POST", ["networks", "create"]) => Box::pin(networks::create(call)),
        ("POST", ["networks", "prune"]) => Box::pin(networks::prune(call)),
        ("GET", ["networks", id]) => Box::pin(networks::inspect(call, own(id))),
        ("DELETE", ["networks", id]) => Box::pin(networks::remove(call, own(id))),
        ("POST", ["networks", id, "connect"]) => Box::pin(networks::connect(call, own(id))),
        ("POST", ["networks", id, "disconnect"]) => Box::pin(networks::disconnect(call, own(id))),

        ("GET", ["swarm"]) => Box::pin(swarm::inspect(call)),
        ("POST", ["swarm", "init"]) => Box::pin(swarm::init(call)),
        ("POST", ["swarm", "join"]) => Box::pin(swarm::join(call)),
        ("POST", ["swarm", "leave"]) => Box::pin(swarm::leave(call)),
        ("POST", ["swarm", "update"]) => Box::pin(swarm::update(call)),
        ("POST", ["swarm", "unlock"]) => Box::pin(swarm::unlock(call)),
        ("GET", ["swarm", "unlockkey"]) => Box::pin(swarm::unlock_key(call)),

        ("GET", ["nodes"]) => Box::pin(nodes::list(call)),
        ("GET", ["nodes", id]) => Box::pin(nodes::inspect(call, own(id))),
        ("DELETE", ["nodes", id]) => Box::pin(nodes::remove(call, own(id))),
        ("POST", ["nodes", id, "update"]) => Box::pin(nodes::update(call, own(id))),

        ("GET", ["services"]) => Box::pin(services::list(call)),
        ("POST", ["services", "create"]) => Box::pin(services::create(call)),
        ("GET", ["services", id]) => Box::pin(services::inspect(call, own(id))),
        ("DELETE", ["services", id]) => Box::pin(services::remove(call, own(id))),
        ("POST", ["services", id, "update"]) => Box::pin(services::update(call, own(id))),
        ("GET", ["services", id, "logs"]) => Box::pin(cluster_logs::service(call, own(id))),

        ("GET", ["tasks"]) => Box::pin(tasks::list(call)),
        ("GET", ["tasks", id]) => Box::pin(tasks::inspect(call, own(id))),
        ("GET", ["tasks", id, "logs"]) => Box::pin(cluster_logs::task(call, own(id))),

        ("GET", ["secrets"]) => Box::pin(secrets::secret_list(call)),
        ("POST", ["secrets", "create"]) => Box::pin(secrets::secret_create(call)),
        ("GET", ["secrets", id]) => Box::pin(secrets::secret_inspect(call, own(id))),
        ("DELETE", ["secrets", id]) => Box::pin(secrets::secret_remove(call, own(id))),
        ("POST", ["secrets", id, "update"]) => Box::pin(secrets::secret_update(call, own(id))),

        ("GET", ["configs"]) => Box::pin(secrets::config_list(call)),
        ("POST", ["configs", "create"]) => Box::pin(secrets::config_create(call)),
        ("GET", ["configs", id]) => Box::pin(secrets::config_inspect(call, own(id))),
        ("DELETE", ["configs", id]) => Box::pin(secrets::config_remove(call, own(id))),
        ("POST", ["configs", id, "update"]) => Box::pin(secrets::config_update(call, own(id))),

        ("GET", ["skep", "v1", "version"]) => Box::pin(stacks::version(call)),
        ("GET", ["skep", "v1", "network", "check"]) => Box::pin(network_check::check(call)),
        ("POST", ["skep", "v1", "images", "missing"]) => Box::pin(image_push::missing(call)),
        ("POST", ["skep", "v1", "images", "load"]) => Box::pin(image_push::load(call)),
        ("GET", ["skep", "v1", "why"]) => Box::pin(why::why(call)),
        ("POST", ["skep", "v1", "tasks", id, "exec"]) => Box::pin(task_exec::create(call, own(id))),
        ("GET", ["skep", "v1", kind @ ("secrets" | "configs"), id, "versions"]) => {
            Box::pin(payload_versions::list(call, own(kind), own(id)))
        }
        ("POST", ["skep", "v1", kind @ ("secrets" | "configs"), id, "versions"]) => {
            Box::pin(payload_versions::next(call, own(kind), own(id)))
        }
        ("POST", ["skep", "v1", kind @ ("secrets" | "configs"), id, "rollback"]) => {
            Box::pin(payload_versions::roll_back(call, own(kind), own(id)))
        }
        ("POST", ["skep", "v1", kind @ ("secrets" | "configs"), id, "forget"]) => {
            Box::pin(payload_versions::forget(call, own(kind), own(id)))
        }
        ("GET", ["skep", "v1", "services", id, "history"]) => {
            Box::pin(services::history(call, own(id)))
        }
        ("GET", ["skep", "v1", "services", id, "runs"]) => Box::pin(runs::list(call, own(id))),
        ("POST", ["skep", "v1", "services", id, "run"]) => Box::pin(runs::run(call, own(id))),
        ("POST", ["skep", "v1", "services", id, "rebalance"]) => {
            Box::pin(rebalance::rebalance(call, own(id)))
        }
        ("POST", ["skep", "v1", "services", id, "rebalance", "preview"]) => {
            Box::pin(rebalance::preview(call, own(id)))
        }
        ("POST", ["skep", "v1", "services", id, "volumes", "release"]) => {
            Box::pin(volume_homes::release(call, own(id)))
        }
        ("POST", ["skep", "v1", "services", id, "preview"]) => {
            Box::pin(services::preview(call, own(id)))
        }
        ("POST", ["skep", "v1", "swarm", "rescue"]) => Box::pin(swarm::rescue(call)),
        ("POST", ["skep", "v1", "swarm", "backup"]) => Box::pin(backup::backup(call)),
        ("POST", ["skep", "v1", "swarm", "restore"]) => Box::pin(backup::restore(call)),
        ("GET", ["skep", "v1", "swarm", "tokens"]) => Box::pin(tokens::list(call)),
        ("POST", ["skep", "v1", "swarm", "tokens"]) => Box::pin(tokens::create(call)),
        ("DELETE", ["skep", "v1", "swarm", "tokens", id]) => {
            Box::pin(tokens::remove(call, own(id)))
        }
        ("GET", ["skep", "v1", "registries"]) => Box::pin(registry_logins::list(call)),
        ("POST", ["skep", "v1", "registries"]) => Box::pin(registry_logins::keep(call)),
        ("DELETE", ["skep", "v1", "registries", host]) => {
            Box::pin(registry_logins::remove(call, own(host)))
        }
        ("GET", ["skep", "v1", "stacks"]) => Box::pin(stacks::list(call)),
        ("GET", ["skep", "v1", "stacks", name]) => Box::pin(stacks::inspect(call, own(name))),
        ("POST", ["skep", "v1", "stacks", name]) => Box::pin(stacks::deploy(call, own(name))),
        ("POST", ["skep", "v1", "stacks", name, "plan"]) => Box::pin(stacks::plan(call, own(name))),
        ("GET", ["skep", "v1", "stacks", name, "progress"]) => {
            Box::pin(stacks::progress(call, own(name)))
        }
        ("GET", ["skep", "v1", "stacks", name, "history"]) => {
            Box::pin(stacks::history(call, own(name)))
        }
        ("POST", ["skep", "v1", "stacks", name, "rollback"]) => {
            Box::pin(stacks::roll_back(call, own(name)))
        }
        ("POST", ["skep", "v1", "stacks", name, "rollback", "plan"]) => {
            Box::pin(stacks::plan_roll_back(call, own(name)))
        }
        ("DELETE", ["skep", "v1", "stacks", name]) => Box::pin(stacks::remove(call, own(name))),

        _ => Box::pin(async { Err(ApiError::not_found("page not found")) }),
    }
}
