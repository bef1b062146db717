"""What operators read: log and Sentry, without a secret, a prompt or an answer."""
