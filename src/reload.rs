//! Reloads the policy without a restart: on SIGHUP, and when the configuration file changes.
//!
//! The policy is `[[grants]]`, `[token] require` and `[token] capability`; all else needs a restart. A file that is invalid,
//! or that would remove all rules, changes nothing: a lost file must not open what was closed.

use std::{io, path::PathBuf, time::Duration};

use actix_web::web::Data;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::UnixMillis,
    config::{Config, Problems, Sources, TomlFile},
    issuer::Issuer,
    policy::Policy,
    telemetry::metrics::ReloadMetrics,
    tenant::TenantName,
};

/// How often the file is read. Notifications would not reliably report changes of mounted secrets and config maps.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Reloads the policy of a running service.
pub struct Reload {
    /// The path in `--config`.
    config_path: Option<PathBuf>,
    /// The settings in effect.
    current: Config,
    issuer: Data<Issuer>,
    metrics: ReloadMetrics,
    sighup: Signal,
    /// The file that was loaded last, valid or not.
    loaded: TomlFile,
}

/// Why a new configuration is rejected for a tenant.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    /// It lacks the tenant's rules, or its requirement.
    #[error("the new configuration takes the policy away; the old one stays in force. Restart if that is meant")]
    RemovesPolicy,
    /// The tenant's rules need a token format or a ttl that takes effect with a restart.
    #[error("the new rules need a token format or a ttl that needs a restart; the old policy stays in force")]
    RulesNeedRestart,
}

impl Reload {
    /// Reloads the policy of `issuer`. It was built from `current`, and `current` was loaded from `file`. From here on,
    /// SIGHUP does not end the process.
    pub fn new(
        config_path: Option<PathBuf>,
        file: TomlFile,
        current: Config,
        issuer: Data<Issuer>,
        metrics: ReloadMetrics,
    ) -> io::Result<Self> {
        let sighup = signal(SignalKind::hangup())?;
        Ok(Self { config_path, current, issuer, metrics, sighup, loaded: file })
    }

    /// Watches the file and SIGHUP until the process ends.
    pub async fn watch(mut self) {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A changed file may be half written, so it is loaded once the next read finds it again.
        let mut changed = None;
        loop {
            tokio::select! {
                received = self.sighup.recv() => match received {
                    // Even if it is the same: files that variables name may have changed.
                    Some(()) => changed = Some(self.file()),
                    None => return,
                },
                _ = ticks.tick() => {
                    let file = self.file();
                    changed = match changed {
                        Some(seen) if seen == file => {
                            self.load(file);
                            None
                        }
                        None if file == self.loaded => None,
                        _ => Some(file),
                    };
                }
            }
        }
    }

    fn file(&self) -> TomlFile {
        Sources::toml_file(self.config_path.as_deref())
    }

    fn load(&mut self, file: TomlFile) {
        let sources = Sources::with_file(self.config_path.as_deref(), &file);
        self.loaded = file;
        match Config::load(&sources) {
            Ok((config, _)) => match self.current.check_reload(&config) {
                Ok(()) => self.apply(config),
                Err((tenant, rejection)) => {
                    self.metrics.refused();
                    tracing::error!(%tenant, "{rejection}");
                }
            },
            Err(Problems(problems)) => {
                self.metrics.refused();
                for problem in problems {
                    tracing::error!(%problem, "the new configuration is refused; the old policy stays in force");
                }
            }
        }
    }

    fn apply(&mut self, config: Config) {
        for section in self.current.differences_beyond_policy(&config) {
            tracing::warn!(section, "changed settings of this section take effect with a restart");
        }
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let mut reloaded = Vec::new();
        for new in config.tenants {
            let name = new.name();
            let current = self.current.tenants.iter_mut().find(|tenant| tenant.name() == name);
            let Some((current, tenant)) = current.zip(self.issuer.tenants().named(&name)) else { continue };
            let policy = Policy { ttl: current.token.ttl, ..new.policy };
            if current.policy.require.is_some() && policy.require.is_none() {
                tracing::warn!(tenant = %name, "the new configuration has no [token] require; sessions no longer need to meet a condition");
            }
            let rules = policy.rules.len();
            current.policy = policy.clone();
            tenant.replace_policy(policy);
            reloaded.push((name, rules));
        }
        // Before the log: whoever reads there of a reload finds it counted.
        self.metrics.taken(UnixMillis::now());
        for (tenant, rules) in reloaded {
            tracing::info!(%tenant, rules, "the policy is reloaded");
        }
    }
}

impl Config {
    /// Whether the policy of `new` can take effect.
    fn check_reload(&self, new: &Self) -> Result<(), (TenantName, Rejection)> {
        let in_both = self.tenants.iter().filter_map(|current| Some((current, new.tenant(&current.name())?)));
        for (current, new) in in_both {
            let (policy, new) = (&current.policy, &new.policy);
            let removes_rules = policy.has_rules() && !new.has_rules();
            let removes_requirement = policy.require.is_some() && new.require.is_none() && !new.has_rules();
            if removes_rules || removes_requirement {
                return Err((current.name(), Rejection::RemovesPolicy));
            }
            if !current.can_have(new) {
                return Err((current.name(), Rejection::RulesNeedRestart));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "[[grants]]\nname = \"all\"\ncapability = { \"chat\" = [\"*\"] }\n";

    fn config(environment: &[(&str, &str)], toml: &str) -> Config {
        let required =
            [("ABLY_API_KEY", "app.key:secret"), ("CLERK_PUBLISHABLE_KEY", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k")];
        let unset = |name: &str| environment.iter().all(|(other, _)| *other != name);
        let required: Vec<_> = required.into_iter().filter(|(name, _)| unset(name)).collect();
        Config::load(&Sources::for_test(&[&required, environment].concat(), toml)).unwrap().0
    }

    fn needs_restart(environment: &[(&str, &str)], toml: &str) -> Vec<String> {
        let (current, new) = (config(&[], RULE), config(environment, toml));
        current.check_reload(&new).unwrap();
        current.differences_beyond_policy(&new)
    }

    #[test]
    fn a_policy_is_applied_and_other_changes_need_a_restart() {
        assert_eq!(needs_restart(&[], &RULE.replace("chat", "news")), <[&str; 0]>::default());
        assert_eq!(needs_restart(&[("TOKEN_TTL", "5m"), ("SERVER_PORT", "1")], RULE), ["token", "server"]);
        assert_eq!(needs_restart(&[("ADMIN_PORT", "0")], RULE), ["admin"]);
        assert_eq!(needs_restart(&[("ABLY_API_KEY", "app.key:other")], RULE), ["ably"]);
        assert_eq!(needs_restart(&[("ABLY_API_KEY", "app.new:secret,app.key:secret")], RULE), ["ably"]);
        assert_eq!(needs_restart(&[("CLERK_SECRET_KEY", "sk_test_new")], RULE), ["clerk"]);
    }

    #[test]
    fn rules_that_the_settings_in_effect_cannot_carry_need_a_restart() {
        let rated =
            "[[grants]]\nname = \"all\"\ncapability = { \"*\" = [\"publish\"] }\npublish_rate = { \"*\" = 1 }\n";
        let jwt = [("TOKEN_FORMAT", "jwt")];
        let decision = config(&[], RULE).check_reload(&config(&jwt, rated));
        assert!(matches!(decision, Err((_, Rejection::RulesNeedRestart))), "{decision:?}");
        assert!(config(&jwt, RULE).check_reload(&config(&jwt, rated)).is_ok());
        let long = format!("{RULE}ttl = \"2h\"\n");
        let revocable = [("ABLY_REVOCABLE_TOKENS", "true")];
        let decision = config(&revocable, RULE).check_reload(&config(&[], &long));
        assert!(matches!(decision, Err((_, Rejection::RulesNeedRestart))), "{decision:?}");
    }

    #[test]
    fn a_tenant_that_takes_the_name_of_the_flat_form_takes_its_place() {
        let tenants = format!(
            "[[tenants]]\nname = \"NAME\"\nably.api_key = \"app.key:secret\"\n\
             clerk.publishable_key = \"pk_test_Y2xlcmsuZXhhbXBsZS5jb20k\"\n{}",
            RULE.replace("grants", "tenants.grants")
        );
        let none = [("ABLY_API_KEY", ""), ("CLERK_PUBLISHABLE_KEY", "")];
        for (name, expected) in [("default", &[][..]), ("acme", &["tenants"])] {
            assert_eq!(needs_restart(&none, &tenants.replace("NAME", name)), expected);
        }
    }

    #[test]
    fn a_lost_policy_is_not_mistaken_for_an_open_one() {
        let require = "[token]\nrequire = { role = \"admin\" }\n";
        for (old, new, is_removed) in [
            (RULE, "", true),
            (RULE, "[token]\ncapability = \"key\"", true),
            (require, "", true),
            (RULE, require, true),
            ("", RULE, false),
            ("", "", false),
        ] {
            let decision = config(&[], old).check_reload(&config(&[], new));
            assert_eq!(matches!(decision, Err((_, Rejection::RemovesPolicy))), is_removed, "{old:?} to {new:?}");
        }
    }
}
