"""What Prometheus is told: `/metrics`, `/healthz` and `/readyz` of the web process. A worker opens no port."""
