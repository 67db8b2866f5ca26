"""cubemastercli: the operator's view of the appliance."""
