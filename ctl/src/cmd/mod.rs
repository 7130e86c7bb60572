//! Which command is which function.

mod compose;
mod config_object;
mod container;
mod expiry;
mod image;
mod inspect;
mod network;
mod node;
mod ports;
mod prune;
mod registry;
mod registry_login;
pub mod service;
mod stack;
mod swarm;
mod system;
mod task;
mod versions;
mod volume;
mod volume_homes;
mod why;
mod zero;

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;

use crate::def::CommandDef;
use crate::failure::Outcome;
use crate::flags::Args;
use crate::session::Session;

type Run = for<'a> fn(&'a Session, &'a Args) -> Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// A command: its definition and what it does.
pub struct Command {
    pub def: CommandDef,
    pub run: Run,
}

/// Where the top help lists a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Management,
    Swarm,
}

pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub section: Section,
}

const fn group(name: &'static str, about: &'static str, section: Section) -> Group {
    Group {
        name,
        about,
        section,
    }
}

/// First words that have commands below them.
pub const GROUPS: &[Group] = &[
    group("builder", "Manage builds", Section::Management),
    group(
        "compose",
        "Define and run multi-container applications with Docker",
        Section::Management,
    ),
    group("container", "Manage containers", Section::Management),
    group("image", "Manage images", Section::Management),
    group("network", "Manage networks", Section::Management),
    group("system", "Manage Docker", Section::Management),
    group("volume", "Manage volumes", Section::Management),
    group("config", "Manage Swarm configs", Section::Swarm),
    group("node", "Manage Swarm nodes", Section::Swarm),
    group(
        "registry",
        "Manage the cluster's credentials for registries",
        Section::Swarm,
    ),
    group("secret", "Manage Swarm secrets", Section::Swarm),
    group("service", "Manage Swarm services", Section::Swarm),
    group("stack", "Manage Swarm stacks", Section::Swarm),
    group("swarm", "Manage Swarm", Section::Swarm),
];

macro_rules! commands {
    ($($file:literal => $run:path;)*) => {
        /// Help texts with the functions that do what they say.
        const TABLE: &[(&str, Run)] = &[$(
            (
                include_str!(concat!("../../help/", $file, ".txt")),
                |session, args| Box::pin($run(session, args)),
            ),
        )*];
    };
}

commands! {
    "builder_prune" => prune::builder;
    "compose_attach" => compose::attach;
    "compose_build" => compose::build;
    "compose_commit" => compose::commit;
    "compose_config" => compose::config;
    "compose_cp" => compose::cp;
    "compose_create" => compose::create;
    "compose_down" => compose::down;
    "compose_events" => compose::events;
    "compose_exec" => compose::exec;
    "compose_export" => compose::export;
    "compose_images" => compose::images;
    "compose_kill" => compose::kill;
    "compose_logs" => compose::logs;
    "compose_ls" => compose::ls;
    "compose_pause" => compose::pause;
    "compose_port" => compose::port;
    "compose_ps" => compose::ps;
    "compose_publish" => compose::publish;
    "compose_pull" => compose::pull;
    "compose_push" => compose::push;
    "compose_restart" => compose::restart;
    "compose_rm" => compose::remove;
    "compose_run" => compose::run;
    "compose_scale" => compose::scale;
    "compose_start" => compose::start;
    "compose_stats" => compose::stats;
    "compose_stop" => compose::stop;
    "compose_top" => compose::top;
    "compose_unpause" => compose::unpause;
    "compose_up" => compose::up;
    "compose_version" => compose::version;
    "compose_volumes" => compose::volumes;
    "compose_wait" => compose::wait;
    "compose_watch" => compose::watch;
    "config_create" => config_object::create_config;
    "config_history" => versions::list;
    "config_inspect" => config_object::inspect_configs;
    "config_ls" => config_object::list_configs;
    "config_ps" => versions::ps;
    "config_rm" => config_object::remove_configs;
    "config_rollback" => versions::roll_back;
    "config_rotate" => versions::rotate;
    "config_update" => versions::update;
    "container_attach" => container::attach::run;
    "container_commit" => container::commit::run;
    "container_cp" => container::cp::run;
    "container_create" => container::create::run;
    "container_diff" => container::show::diff;
    "container_exec" => container::exec::run;
    "container_export" => container::show::export;
    "container_inspect" => inspect::containers;
    "container_kill" => container::state::kill;
    "container_logs" => container::logs::run;
    "container_ls" => container::ls::run;
    "container_pause" => container::state::pause;
    "container_port" => container::show::port;
    "container_prune" => prune::containers;
    "container_rename" => container::state::rename;
    "container_restart" => container::state::restart;
    "container_rm" => container::state::remove;
    "container_run" => container::run::run;
    "container_start" => container::start::run;
    "container_stats" => container::stats::run;
    "container_stop" => container::state::stop;
    "container_top" => container::show::top;
    "container_unpause" => container::state::unpause;
    "container_update" => container::state::update;
    "container_wait" => container::state::wait;
    "image_build" => image::build::run;
    "image_history" => image::history::run;
    "image_import" => image::archive::import;
    "image_inspect" => inspect::images;
    "image_load" => image::archive::load;
    "image_ls" => image::ls::run;
    "image_prune" => prune::images;
    "image_pull" => image::transfer::pull;
    "image_push" => image::transfer::push;
    "image_push-cluster" => image::push_cluster::run;
    "image_rm" => image::remove;
    "image_save" => image::archive::save;
    "image_tag" => image::tag;
    "inspect" => inspect::any;
    "login" => registry::login;
    "logout" => registry::logout;
    "network_check" => network::check;
    "network_connect" => network::connect;
    "network_create" => network::create;
    "network_disconnect" => network::disconnect;
    "network_inspect" => inspect::networks;
    "network_ls" => network::list;
    "network_prune" => prune::networks;
    "network_rm" => network::remove;
    "node_demote" => node::demote;
    "node_inspect" => node::inspect::run;
    "node_ls" => node::ls::run;
    "node_promote" => node::promote;
    "node_ps" => node::ps;
    "node_rm" => node::remove;
    "node_update" => node::update;
    "registry_login" => registry_login::keep;
    "registry_ls" => registry_login::list;
    "registry_rm" => registry_login::remove;
    "search" => registry::search;
    "secret_create" => config_object::create_secret;
    "secret_history" => versions::list;
    "secret_inspect" => config_object::inspect_secrets;
    "secret_ls" => config_object::list_secrets;
    "secret_ps" => versions::ps;
    "secret_rm" => config_object::remove_secrets;
    "secret_rollback" => versions::roll_back;
    "secret_rotate" => versions::rotate;
    "secret_update" => versions::update;
    "service_create" => service::create::run;
    "service_exec" => service::exec::run;
    "service_history" => service::history::run;
    "service_inspect" => service::inspect::run;
    "service_logs" => service::logs::run;
    "service_ls" => service::ls::run;
    "service_ps" => service::ps::run;
    "service_rebalance" => service::rebalance::run;
    "service_rm" => service::remove;
    "service_rollback" => service::rollback::run;
    "service_run" => service::runs::run;
    "service_runs" => service::runs::list;
    "service_scale" => service::scale::run;
    "service_update" => service::update::run;
    "stack_config" => stack::config;
    "stack_deploy" => stack::deploy;
    "stack_diff" => stack::revisions::diff;
    "stack_exec" => stack::exec::run;
    "stack_history" => stack::revisions::history;
    "stack_inspect" => inspect::stacks;
    "stack_logs" => stack::logs::run;
    "stack_ls" => stack::list;
    "stack_plan" => stack::plan::run;
    "stack_ps" => stack::ps;
    "stack_rm" => stack::remove;
    "stack_rollback" => stack::revisions::roll_back;
    "stack_services" => stack::services;
    "swarm_backup" => swarm::backup::backup;
    "swarm_ca" => swarm::ca::run;
    "swarm_init" => swarm::init;
    "swarm_join" => swarm::join;
    "swarm_join-token" => swarm::token::join_token;
    "swarm_join-token_ls" => swarm::issued::list;
    "swarm_join-token_rm" => swarm::issued::remove;
    "swarm_leave" => swarm::leave;
    "swarm_rescue" => swarm::rescue;
    "swarm_restore" => swarm::backup::restore;
    "swarm_unlock" => swarm::token::unlock;
    "swarm_unlock-key" => swarm::token::unlock_key;
    "swarm_update" => swarm::update;
    "system_df" => system::df::run;
    "system_dial-stdio" => system::dial::run;
    "system_events" => system::events::run;
    "system_info" => system::info::run;
    "system_prune" => prune::system;
    "version" => system::version::run;
    "volume_create" => volume::create;
    "volume_homes" => volume_homes::list;
    "volume_inspect" => inspect::volumes;
    "volume_ls" => volume::list;
    "volume_prune" => prune::volumes;
    "volume_release" => volume_homes::release;
    "volume_rm" => volume::remove;
    "volume_update" => volume::update;
    "why" => why::run;
}

/// Every command.
pub fn all() -> &'static [Command] {
    static ALL: OnceLock<Vec<Command>> = OnceLock::new();
    ALL.get_or_init(|| {
        TABLE
            .iter()
            .map(|(text, run)| Command {
                def: CommandDef::parse(text).expect("a test reads each help text"),
                run: *run,
            })
            .collect()
    })
}

/// The command of this name, aliases included.
pub fn find<'a>(commands: &'a [Command], path: &str) -> Option<&'a Command> {
    commands
        .iter()
        .find(|command| command.def.names.iter().any(|name| name == path))
}

/// `--format`, or what the configuration file says in its place.
pub fn format_of(session: &Session, args: &Args, key: &str) -> String {
    match args.text("format") {
        "" if !args.flag("quiet") => session.config.text(key).to_owned(),
        given => given.to_owned(),
    }
}

fn about_line(command: &Command) -> String {
    command
        .def
        .about
        .lines()
        .next()
        .and_then(|line| line.split(". ").next())
        .unwrap_or("")
        .trim_end_matches('.')
        .to_owned()
}

/// Commands of one word, with what they do.
pub fn top_level(commands: &[Command]) -> Vec<(String, String)> {
    let mut lines: Vec<_> = commands
        .iter()
        .filter(|command| !command.def.hidden)
        .flat_map(|command| {
            let names = command.def.names.iter().filter(|name| !name.contains(' '));
            names.map(|name| (name.clone(), about_line(command)))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Commands of a group, by the second word of their path.
pub fn in_group(commands: &[Command], group: &str) -> Vec<(String, String)> {
    let mut lines: Vec<_> = commands
        .iter()
        .filter(|command| !command.def.hidden)
        .filter_map(|command| {
            let name = command.def.path.strip_prefix(group)?.strip_prefix(' ')?;
            Some((name.to_owned(), about_line(command)))
        })
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_text_is_a_definition() {
        for (text, _) in TABLE {
            let def = CommandDef::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert!(!def.about.is_empty(), "{}", def.path);
            for flag in &def.flags {
                assert!(
                    !flag.long.is_empty() && !flag.long.contains(' '),
                    "{} {flag:?}",
                    def.path
                );
            }
        }
        for text in [
            include_str!("../../help/root.txt"),
            include_str!("../../help/compose.txt"),
        ] {
            assert!(CommandDef::parse(text).is_some());
        }
        let commands = all();
        for name in [
            "run",
            "ps",
            "images",
            "rmi",
            "service ls",
            "stack up",
            "events",
            "container ps",
        ] {
            assert!(find(commands, name).is_some(), "{name}");
        }
        let create = &find(commands, "service create").unwrap().def;
        // Those of docker, `--drain`, five of schedules and eight of scaling.
        assert_eq!(create.flags.len(), 87);
        assert!(!create.interspersed);
    }
}
