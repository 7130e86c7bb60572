//! What a project's containers and images are called.

use skep_compose::ProjectService;

/// How names of a project are put together: with hyphens, or with underscores as the first
/// docker-compose did (`--compatibility`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    pub project: &'a str,
    pub separator: char,
}

impl Names<'_> {
    /// The container of a service with this number.
    pub fn container(&self, service: &str, number: u64) -> String {
        let (project, separator) = (self.project, self.separator);
        format!("{project}{separator}{service}{separator}{number}")
    }

    /// A container of a service that is for one command.
    pub fn oneoff(&self, service: &str, slug: &str) -> String {
        let (project, separator) = (self.project, self.separator);
        format!("{project}{separator}{service}{separator}run{separator}{slug}")
    }

    /// The image of a service: its own, or one made of the project's name and the service's.
    pub fn image(&self, key: &str, service: &ProjectService) -> String {
        service
            .image
            .clone()
            .unwrap_or_else(|| format!("{}{}{key}", self.project, self.separator))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_hyphens_or_underscores() {
        let names = |separator| {
            let names = Names {
                project: "app",
                separator,
            };
            [
                names.container("web", 2),
                names.oneoff("web", "1f"),
                names.image("web", &ProjectService::default()),
            ]
        };
        assert_eq!(names('-'), ["app-web-2", "app-web-run-1f", "app-web"]);
        assert_eq!(names('_'), ["app_web_2", "app_web_run_1f", "app_web"]);
    }
}
