"""Alerts: rules over what happens to tasks, looked at by one worker of all, told on NATS and to webhooks."""
