"""How a layer's weights are stored and computed: masked, condensed or compact."""
