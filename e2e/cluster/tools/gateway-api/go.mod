// Pins the Gateway API, for its standard-channel definitions (config/crd/standard in the module).
module serin.local/tools/gateway-api

go 1.26.0

require sigs.k8s.io/gateway-api v1.6.3
