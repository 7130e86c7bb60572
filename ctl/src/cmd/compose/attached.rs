//! Which services a foreground `up` shows the output of.

use skep_compose::Project;

/// Whose output a foreground `up` shows.
pub struct Attached {
    /// Those alone, where there are some.
    pub only: Vec<String>,
    pub left_out: Vec<String>,
    /// Services that were asked for; empty: all, with what they need.
    pub named: Vec<String>,
}

impl Attached {
    /// Whether a service is one of them.
    pub fn shows(&self, project: &Project, service: &str) -> bool {
        let is_in = |list: &[String]| list.iter().any(|name| name == service);
        let own = project.services.get(service).is_none_or(|one| one.attach);
        let asked = match self.only.is_empty() {
            true => own && (self.named.is_empty() || is_in(&self.named)),
            false => is_in(&self.only),
        };
        asked && !is_in(&self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_compose::ProjectService;

    #[test]
    fn a_foreground_up_shows_what_was_asked_for() {
        let silent = ProjectService {
            attach: false,
            ..ProjectService::default()
        };
        let loud = ProjectService {
            attach: true,
            ..ProjectService::default()
        };
        let services = [("web", &loud), ("db", &loud), ("log", &silent)];
        let project = Project {
            services: services
                .map(|(name, service)| (name.to_owned(), service.clone()))
                .into(),
            ..Project::default()
        };
        let shown = |only: &[&str], left_out: &[&str], named: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
            let attached = Attached {
                only: owned(only),
                left_out: owned(left_out),
                named: owned(named),
            };
            let names = ["web", "db", "log"];
            let shown = names
                .into_iter()
                .filter(|name| attached.shows(&project, name));
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&[], &[], &[]), "web db");
        assert_eq!(shown(&[], &[], &["web"]), "web");
        assert_eq!(shown(&["log", "db"], &[], &["web"]), "db log");
        assert_eq!(shown(&[], &["db"], &[]), "web");
    }
}
