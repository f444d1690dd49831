DROP TABLE tenant_days, owner_days, conversation_days, conversation_tallies, rollups;
