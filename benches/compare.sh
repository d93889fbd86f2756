#!/usr/bin/env bash
# Processor time of one request: jotgate beside a plain nginx, on this machine, in rounds that take turns.
#
#   benches/compare.sh [path of jotgate] > result.txt
#
# Clients and services are on loopback; each proxy has one worker. What counts is the processor time of the proxy (user and
# system, /proc/PID/stat) by request: it is far steadier than requests a second. Nothing is installed: what is missing is said.
# ROUNDS and SECONDS_EACH may be set from outside.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jotgate=${1:-$here/target/release/jotgate}
rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-3}
connections=${CONNECTIONS:-64}

missing=()
for tool in wrk nginx curl; do command -v "$tool" >/dev/null || missing+=("$tool"); done
[ -x "$jotgate" ] || missing+=("$jotgate (cargo build --release)")
if [ ${#missing[@]} -gt 0 ]; then
  printf 'benches/compare.sh: missing: %s\n' "${missing[@]}" >&2
  exit 1
fi

folder=$(mktemp -d)
started=()
finish() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT

# Ports above those that the kernel gives out by itself.
service=61801 plain=61802 proxy=61803 admin=61804
kib=$(printf 'x%.0s' {1..1024})
common="daemon off; master_process off; worker_processes 1; error_log $folder/nginx.err; events { worker_connections 4096; }"
temp="client_body_temp_path $folder/b; proxy_temp_path $folder/p; fastcgi_temp_path $folder/f; uwsgi_temp_path $folder/u; scgi_temp_path $folder/s;"
cat >"$folder/service.conf" <<CONF
$common pid $folder/service.pid;
http { $temp access_log off; keepalive_requests 1000000000; server { listen 127.0.0.1:$service;
  location / { default_type application/octet-stream; return 200 "$kib"; } } }
CONF
cat >"$folder/plain.conf" <<CONF
$common pid $folder/plain.pid;
http { $temp access_log off; keepalive_requests 1000000000;
  upstream service { server 127.0.0.1:$service; keepalive 256; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:$plain; location / { proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
CONF
"$jotgate" keys generate --alg RS256 --out "$folder/keys" >/dev/null
cat >"$folder/gateway.toml" <<CONF
workers = 1
[[listeners]]
address = "127.0.0.1:$proxy"
[[issuers]]
issuer = "https://id.example.com"
audiences = ["orders"]
jwks_file = "$folder/keys/jwks.json"
[issuers.headers]
x-user-id = "sub"
[[routes]]
path = "/"
upstream = "http://127.0.0.1:$service"
[[routes]]
path = "/public"
upstream = "http://127.0.0.1:$service"
auth = "public"
[denylist]
path = "$folder/denylist.log"
[admin]
address = "127.0.0.1:$admin"
[[admin.tokens]]
name = "ops"
secret = { env = "JOTGATE_ADMIN_TOKEN" }
roles = ["read"]
[telemetry]
access_log = false
CONF
mint() { "$jotgate" token mint --key "$folder/keys/private.pem" --alg RS256 --issuer https://id.example.com --audience orders \
  --subject alice --claim sid=s1 --expires-in 1h "$@"; }
token=$(mint)
# The signature of another token: form and key are right.
forged=${token%.*}.$(mint --claim sid=s2 | sed 's/.*\.//')
expired=$(mint --claim iat=1000 --claim exp=2000)

nginx -p "$folder" -c "$folder/service.conf" 2>/dev/null & started+=($!)
nginx -p "$folder" -c "$folder/plain.conf" 2>/dev/null & plain_pid=$!; started+=($!)
JOTGATE_ADMIN_TOKEN=0123456789abcdef "$jotgate" run --config "$folder/gateway.toml" >"$folder/gateway.log" 2>&1 & proxy_pid=$!; started+=($!)
status() { curl -s -o /dev/null -w '%{http_code}' "$@" || true; }
for _ in {1..100}; do
  [ "$(status "http://127.0.0.1:$plain/")$(status "http://127.0.0.1:$admin/ready")" = 200200 ] && break
  sleep 0.1
done
bearer() { printf 'Authorization: Bearer %s' "$1"; }
# What is measured must be what its name says.
expect() { local got; got=$(status "${@:2}"); [ "$got" = "$1" ] || { echo "expected $1, got $got: ${*:2}" >&2; cat "$folder/gateway.log" >&2; exit 1; }; }
expect 200 "http://127.0.0.1:$plain/"
expect 200 "http://127.0.0.1:$proxy/" -H "$(bearer "$token")"
expect 200 "http://127.0.0.1:$proxy/public"
expect 401 "http://127.0.0.1:$proxy/"
expect 401 "http://127.0.0.1:$proxy/" -H "$(bearer "$forged")"
expect 401 "http://127.0.0.1:$proxy/" -H "$(bearer "$expired")"

ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
hertz=$(getconf CLK_TCK)
one() { # name, pid, url, more of wrk
  local before after requests
  before=$(ticks "$2")
  requests=$(wrk -t1 -c"$connections" -d"${seconds}s" "${@:4}" "$3" | awk '/requests in/ { print $1 }')
  after=$(ticks "$2")
  awk -v name="$1" -v ticks=$((after - before)) -v n="$requests" -v hertz="$hertz" \
    'BEGIN { printf "%s %.2f %d\n", name, ticks * 1e6 / hertz / n, n }'
}
for ((round = 0; round < rounds; round++)); do
  one nginx-plain "$plain_pid" "http://127.0.0.1:$plain/"
  one jotgate-hot-token "$proxy_pid" "http://127.0.0.1:$proxy/" -H "$(bearer "$token")"
  one jotgate-public "$proxy_pid" "http://127.0.0.1:$proxy/public"
  one jotgate-no-token "$proxy_pid" "http://127.0.0.1:$proxy/"
  one jotgate-expired "$proxy_pid" "http://127.0.0.1:$proxy/" -H "$(bearer "$expired")"
  one jotgate-bad-signature "$proxy_pid" "http://127.0.0.1:$proxy/" -H "$(bearer "$forged")"
done | tee "$folder/rounds" >&2

echo "processor time of one request, µs ($rounds rounds of $seconds s, $connections connections)"
for name in $(awk '!seen[$1]++ { print $1 }' "$folder/rounds"); do
  awk -v name="$name" '$1 == name { print $2 }' "$folder/rounds" | sort -n |
    awk -v name="$name" '{ v[NR] = $1 } END { printf "%-22s median %6.2f  least %6.2f  most %6.2f\n", name, v[int((NR + 1) / 2)], v[1], v[NR] }'
done
