//! What `insertDefaults` shows: the values that count where a spec says nothing.

use skep_model::placement::Placement;
use skep_model::resources::{Limits, ResourceRequirements, Resources};
use skep_model::service::{EndpointSpec, UpdateConfig};
use skep_model::task::RestartPolicy;
use skep_model::{Nanos, ServiceSpec};

const STOP_GRACE_PERIOD: Nanos = Nanos::from_secs(10);
/// Swarm's restart delay.
pub const RESTART_DELAY: Nanos = Nanos::from_secs(5);
const MONITOR: Nanos = Nanos::from_secs(5);

/// Fills in the defaults.
pub fn fill_in(spec: &mut ServiceSpec) {
    let task = &mut spec.task_template;
    if let Some(container) = &mut task.container_spec {
        container.stop_grace_period.get_or_insert(STOP_GRACE_PERIOD);
        container.dns_config.get_or_insert_default();
    }
    let resources: &mut ResourceRequirements = task.resources.get_or_insert_default();
    let _: &mut Limits = resources.limits.get_or_insert_default();
    let _: &mut Resources = resources.reservations.get_or_insert_default();
    let restart: &mut RestartPolicy = task.restart_policy.get_or_insert_default();
    restart.delay.get_or_insert(RESTART_DELAY);
    restart.max_attempts.get_or_insert(0);
    let _: &mut Placement = task.placement.get_or_insert_default();
    if !spec.mode.is_job() {
        for config in [&mut spec.update_config, &mut spec.rollback_config] {
            let config: &mut UpdateConfig = config.get_or_insert_default();
            if config.monitor == Nanos(0) {
                config.monitor = MONITOR;
            }
        }
    }
    let _: &mut EndpointSpec = spec.endpoint_spec.get_or_insert_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::ContainerSpec;

    #[test]
    fn silent_fields_get_values_and_spoken_ones_stay() {
        let mut spec = ServiceSpec::default();
        spec.task_template.container_spec = Some(ContainerSpec {
            stop_grace_period: Some(Nanos::from_secs(1)),
            ..ContainerSpec::default()
        });
        fill_in(&mut spec);
        let container = spec.task_template.container_spec.as_ref().unwrap();
        assert_eq!(container.stop_grace_period, Some(Nanos::from_secs(1)));
        assert!(container.dns_config.is_some());
        let restart = spec.task_template.restart_policy.unwrap();
        assert_eq!(restart.delay, Some(Nanos::from_secs(5)));
        assert_eq!(spec.update_config.unwrap().monitor, Nanos::from_secs(5));
        assert!(spec.endpoint_spec.is_some());
    }
}
