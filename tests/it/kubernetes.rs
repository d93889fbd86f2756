//! The manifests of `deploy/kubernetes`: they are what Kubernetes understands, their parts fit each other, and the gateway
//! takes the configuration in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jotgate::config::{Settings, load_str};
use jotgate::listener::Address;
use serde_json::{Value, json};

use crate::support::process;

/// Kubernetes' own schemas, of the kinds that the manifests use.
const SCHEMAS: &str = include_str!("kubernetes.json");

/// What a manifest holds: its objects, in their order.
struct Manifest {
    name: String,
    objects: Vec<Value>,
}

fn manifests() -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the manifests")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 2, "{files:?}");
    files.iter().map(|file| manifest(file)).collect()
}

fn manifest(file: &Path) -> Manifest {
    let text = std::fs::read_to_string(file).expect("a manifest");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    assert!(objects.len() >= 4, "{}", file.display());
    Manifest {
        name: file.file_name().expect("a name").display().to_string(),
        objects,
    }
}

impl Manifest {
    /// Its only object of a kind.
    fn one(&self, kind: &str) -> &Value {
        let mut all = self.objects.iter().filter(|object| object["kind"] == kind);
        let one = all
            .next()
            .unwrap_or_else(|| panic!("{}: no {kind}", self.name));
        assert!(all.next().is_none(), "{}: several of {kind}", self.name);
        one
    }

    fn pod(&self) -> &Value {
        &self.one("Deployment")["spec"]["template"]["spec"]
    }

    /// The gateway's container, wherever it stands.
    fn gateway(&self) -> &Value {
        let lists = ["initContainers", "containers"];
        let mut all = lists.iter().flat_map(|list| elements(&self.pod()[list]));
        all.find(|container| container["name"] == "jotgate")
            .expect("a container")
    }

    fn configuration(&self) -> &str {
        let map = self.one("ConfigMap");
        map["data"]["gateway.toml"].as_str().expect("a file")
    }

    /// What the container's environment holds; secrets are made up, and the folder of what is written is another one.
    fn environment(&self) -> Vec<(String, String)> {
        let folder = std::env::temp_dir();
        let log = folder.join("denylist.log");
        let places = [
            ("JOTGATE__JWKS_CACHE", folder.display().to_string()),
            ("JOTGATE__DENYLIST__PATH", log.display().to_string()),
        ];
        let variables = elements(&self.gateway()["env"]).map(|variable| {
            let secret = variable["valueFrom"].get("secretKeyRef");
            assert!(secret.is_some(), "{variable}");
            let name = variable["name"].as_str().expect("a name");
            (name.to_owned(), "0123456789abcdef".to_owned())
        });
        let places = places.map(|(name, value)| (name.to_owned(), value));
        variables.chain(places).collect()
    }

    fn settings(&self) -> Settings {
        load_str(&self.name, self.configuration(), &self.environment())
            .unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// The number that a port has by name, or is.
    fn port(&self, port: &Value) -> u64 {
        port.as_u64().unwrap_or_else(|| {
            let mut ports = elements(&self.gateway()["ports"]);
            let named = ports.find(|known| known["name"] == *port).expect("a port");
            named["containerPort"].as_u64().expect("a number")
        })
    }
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The names of kinds, by version and kind.
fn kinds(schemas: &Value) -> BTreeMap<(String, String), String> {
    let definitions = schemas["$defs"].as_object().expect("definitions");
    let word = |shape: &Value| shape["enum"][0].as_str().map(str::to_owned);
    definitions
        .iter()
        .filter_map(|(name, shape)| {
            let properties = &shape["properties"];
            let kind = (word(&properties["apiVersion"])?, word(&properties["kind"])?);
            Some((kind, name.clone()))
        })
        .collect()
}

/// What Kubernetes does not understand of an object.
fn faults(object: &Value) -> Vec<String> {
    let mut schema: Value = serde_json::from_str(SCHEMAS).expect("JSON");
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let Some(name) = kinds(&schema).remove(&(text("apiVersion"), text("kind"))) else {
        return vec![format!(
            "{} {}: no such kind",
            text("apiVersion"),
            text("kind")
        )];
    };
    schema["$ref"] = format!("#/$defs/{name}").into();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors = validator.iter_errors(object);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn kubernetes_understands_every_object() {
    let mut count = 0;
    for manifest in manifests() {
        for object in &manifest.objects {
            let faults = faults(object);
            assert!(faults.is_empty(), "{}: {faults:#?}", manifest.name);
            assert!(object["metadata"]["name"].is_string());
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn what_kubernetes_does_not_understand_is_noticed() {
    let manifests = manifests();
    let deployment = manifests[0].one("Deployment");
    let container = "/spec/template/spec/containers/0";
    for (place, key, value) in [
        ("", "kind", json!("Deploymant")),
        ("/spec", "replica", json!(2)),
        (
            "/spec/template/spec",
            "terminationGracePeriodSeconds",
            json!("45"),
        ),
        (container, "readynessProbe", json!({})),
        (container, "image", json!(1)),
    ] {
        let mut wrong = deployment.clone();
        wrong.pointer_mut(place).expect("a place")[key] = value;
        assert!(!faults(&wrong).is_empty(), "{place}/{key}");
    }
}

#[tokio::test]
async fn the_gateway_takes_the_configuration_of_each() {
    for manifest in manifests() {
        let (_folder, file) = process::config_file(manifest.configuration());
        let args = ["check", "--config", process::text(&file)];
        let finished = process::run(&args, &manifest.environment()).await;
        assert_eq!(
            finished.status.code(),
            Some(0),
            "{}: {finished:?}",
            manifest.name
        );
        assert!(finished.stdout.contains("orders"), "{finished:?}");
    }
}

#[test]
fn ports_and_probes_are_those_of_the_configuration() {
    for manifest in manifests() {
        let settings = manifest.settings();
        let gateway = manifest.gateway();
        let Address::Tcp(listener) = &settings.listeners[0].address else {
            panic!("{}: no port", manifest.name);
        };
        assert!(listener.ip().is_unspecified());
        let admin = settings.admin.as_ref().expect("an admin API");
        assert!(admin.address.ip().is_loopback(), "nobody else reaches it");
        let probes = admin.probes.expect("probes");
        assert!(probes.ip().is_unspecified(), "the kubelet reaches them");
        for (probe, path) in [
            ("startupProbe", "/live"),
            ("livenessProbe", "/live"),
            ("readinessProbe", "/ready"),
        ] {
            let get = &gateway[probe]["httpGet"];
            assert_eq!(get["path"], path, "{}: {probe}", manifest.name);
            assert_eq!(
                manifest.port(&get["port"]),
                u64::from(probes.port()),
                "{probe}"
            );
        }
        let service = &manifest.one("Service")["spec"];
        let target = manifest.port(&service["ports"][0]["targetPort"]);
        assert_eq!(target, u64::from(listener.port()));
        let labels = &manifest.one("Deployment")["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&service["selector"], labels);
        for object in &manifest.objects {
            let spec = &object["spec"];
            for selector in [&spec["selector"], &spec["podSelector"]] {
                let behind = object["metadata"]["name"] == "orders-behind-jotgate";
                if let Some(wanted) = selector.get("matchLabels")
                    && !behind
                {
                    assert_eq!(wanted, labels, "{}: {object}", manifest.name);
                }
            }
        }
        // What may come in is what listens for others.
        let policies = manifest
            .objects
            .iter()
            .filter(|it| it["kind"] == "NetworkPolicy");
        let first = policies.take(1).next().expect("a policy");
        let open: Vec<u64> = elements(&first["spec"]["ingress"])
            .flat_map(|rule| elements(&rule["ports"]))
            .map(|port| manifest.port(&port["port"]))
            .collect();
        assert_eq!(open, [u64::from(listener.port()), u64::from(probes.port())]);
    }
}

#[test]
fn the_gateway_has_no_rights() {
    for manifest in manifests() {
        let (pod, gateway) = (manifest.pod(), manifest.gateway());
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(gateway["image"], format!("jotgate:{version}"));
        assert_eq!(pod["automountServiceAccountToken"], false);
        let of_pod = &pod["securityContext"];
        assert_eq!(of_pod["runAsNonRoot"], true);
        assert_eq!(of_pod["runAsUser"], 65532, "`nonroot` of the image");
        assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
        let security = &gateway["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert!(gateway["resources"]["limits"]["memory"].is_string());
        // A secret that is in a manifest is one that everybody knows.
        assert!(
            manifest
                .objects
                .iter()
                .all(|object| object["kind"] != "Secret")
        );
    }
}

#[test]
fn what_changes_is_mounted_as_a_folder_and_what_is_written_can_be() {
    for manifest in manifests() {
        let mounts: BTreeMap<&str, &Value> = elements(&manifest.gateway()["volumeMounts"])
            .map(|mount| (mount["mountPath"].as_str().expect("a path"), mount))
            .collect();
        let volume = |path: &str| {
            let mount = mounts[path];
            assert!(mount.get("subPath").is_none(), "{}: {path}", manifest.name);
            let mut volumes = elements(&manifest.pod()["volumes"]);
            volumes
                .find(|it| it["name"] == mount["name"])
                .expect("a volume")
        };
        // Where the image says that the configuration is.
        let map = &manifest.one("ConfigMap")["metadata"]["name"];
        assert_eq!(&volume("/etc/jotgate")["configMap"]["name"], map);
        assert!(volume("/var/lib/jotgate")["emptyDir"].is_object());
        let file: toml::Table = manifest.configuration().parse().expect("TOML");
        assert_eq!(file["jwks_cache"].as_str(), Some("/var/lib/jotgate"));
        let log = file["denylist"]["path"].as_str();
        assert_eq!(log, Some("/var/lib/jotgate/denylist.log"));
    }
}

#[test]
fn a_pod_has_the_time_that_its_end_takes() {
    for manifest in manifests() {
        let shutdown = manifest.settings().shutdown;
        let grace = manifest.pod()["terminationGracePeriodSeconds"].as_u64();
        let hooks: u64 = elements(&manifest.pod()["containers"])
            .filter_map(|container| container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64())
            .sum();
        let needed = shutdown.drain_delay + shutdown.drain_timeout + Duration::from_secs(hooks);
        assert!(
            Duration::from_secs(grace.expect("seconds")) > needed,
            "{}",
            manifest.name
        );
        // One of them waits while traffic turns away.
        let waits = shutdown.drain_delay + Duration::from_secs(hooks);
        assert!(waits >= Duration::from_secs(10), "{}", manifest.name);
    }
}

#[test]
fn the_sidecar_starts_before_the_service_and_ends_after_it() {
    let manifest = &manifests()[1];
    assert_eq!(manifest.name, "sidecar.yaml");
    let first = &manifest.pod()["initContainers"][0];
    assert_eq!(
        (&first["name"], &first["restartPolicy"]),
        (&json!("jotgate"), &json!("Always"))
    );
    let (gateway, settings) = (manifest.gateway(), manifest.settings());
    assert!(gateway.get("lifecycle").is_none());
    assert_eq!(settings.shutdown.drain_delay, Duration::ZERO);
    for upstream in &settings.upstreams {
        for server in &upstream.servers {
            assert!(format!("{server:?}").contains("127.0.0.1"), "{server:?}");
        }
    }
}

#[test]
fn the_gateway_of_its_own_is_spread_scaled_and_the_only_way_to_the_service() {
    let manifest = &manifests()[0];
    assert_eq!(manifest.name, "gateway.yaml");
    let name = &manifest.one("Deployment")["metadata"]["name"];
    assert!(manifest.one("Deployment")["spec"].get("replicas").is_none());
    let scaler = &manifest.one("HorizontalPodAutoscaler")["spec"];
    assert_eq!(&scaler["scaleTargetRef"]["name"], name);
    assert!(scaler["minReplicas"].as_u64() >= Some(2));
    assert_eq!(
        manifest.one("PodDisruptionBudget")["spec"]["maxUnavailable"],
        1
    );
    assert_eq!(
        elements(&manifest.pod()["topologySpreadConstraints"]).count(),
        2
    );
    let behind = manifest.objects.last().expect("a policy");
    let from = &behind["spec"]["ingress"][0]["from"];
    let labels = &manifest.one("Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(from, &json!([{"podSelector": {"matchLabels": labels}}]));
    assert_eq!(elements(&behind["spec"]["ingress"]).count(), 1);
}
